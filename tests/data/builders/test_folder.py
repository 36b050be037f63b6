"""The builder of a user's own images, from a folder and from a JSONL file."""

import json
import subprocess
import sys

import pytest

from tests import archives
from tests.data.builders.test_coco import read
from tests.places import ROOT
from xmc_jax.data import catalog
from xmc_jax.data.builders.captioned import Example, Settings
from xmc_jax.data.builders.folder import folder_dataset_builder
from xmc_jax.data.builders.folder.folder_dataset_builder import name_form
from xmc_jax.errors import UserError


def write(folder, name, text=None, fmt=None, seed=0):
    """An image, and its text file if there is a text."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fmt = fmt or {".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), path.suffix[1:])
    path.write_bytes(archives.encode(archives.photograph(seed=seed), fmt.upper()))
    if text is not None:
        data = text if isinstance(text, bytes) else text.encode()
        path.with_suffix(".txt").write_bytes(data)


def build(source, data_dir, form="sq128", **settings):
    form = name_form(source, form)
    builder = catalog.make_builder("folder", form=form, data_dir=str(data_dir))
    folder = catalog.build(builder, Settings(source=source, **settings))
    return form, json.loads((folder / "build_report.json").read_text())


def read_all(data_dir, form, splits=("train", "val")):
    records = {split: read("folder", data_dir, split, form) for split in splits}
    return {r["id"]: r | {"split": split} for split in splits for r in records[split]}


def test_pairs_of_an_image_and_a_text(tmp_path, capsys):
    source = tmp_path / "My Holidays"
    for seed, suffix in enumerate(("png", "jpg", "jpeg", "webp", "bmp", "gif", "JPG")):
        write(source, f"{seed}/a.{suffix}", f"caption one of {suffix}\n\n two\t{suffix} \n")
    write(source, "bom.png", "\ufeffwith a mark\r\nand a second line\r\n".encode())
    write(source, "stamp.png", "A coin of 25 cents.\nde.utf8=Eine Münze.\nzh_CN.utf8=硬币\n")
    write(source, ".hidden/a.png", "not seen")
    write(source, "alone.png")
    (source / "sub.txt").write_text("no image")
    form, report = build(source, tmp_path)
    assert form == "my-holidays_sq128"
    records = read_all(tmp_path, form)
    assert len(records) == 9 and records["0/a.png"]["image"].shape == (128, 128, 3)
    assert records["6/a.JPG"]["texts"] == ["caption one of JPG", "two JPG"]
    assert records["bom.png"]["texts"] == ["with a mark", "and a second line"]
    assert records["stamp.png"]["texts"] == ["A coin of 25 cents."]
    assert report["source"] == {
        "path": str(source),
        "without_text": ["alone.png"],
        "without_image": ["sub.txt"],
    }
    err = capsys.readouterr().err
    assert "1 files without text, e.g. alone.png" in err and "1 files without image" in err
    assert report["train"]["short_captions"] + report["val"]["short_captions"] == 7
    assert "expected" not in report["train"]


def test_names_with_signs_of_patterns_or_that_are_not_utf8(tmp_path):
    source = tmp_path / "photos [2023]"
    for name in ("a.png", "caf\udce9.png"):  # As an old archive unpacks it.
        write(source, name, "of a summer")
    write(source, "n\udce9.png")
    form, report = build(source, tmp_path)
    assert form == "photos-2023_sq128"
    assert read_all(tmp_path, form).keys() == {"a.png", "caf?.png"}
    assert report["source"]["without_text"] == ["n\udce9.png"]


def test_invisible_captions_are_empty(tmp_path):
    for name in ("a.png", "b.png"):
        write(tmp_path / "x", name, "\u200b\nseen\n\u0301\n\ufffd\u200d\n")
    form, report = build(tmp_path / "x", tmp_path)
    assert [r["texts"] for r in read_all(tmp_path, form).values()] == [["seen"], ["seen"]]
    assert report["train"]["empty_captions"] == 3


def test_the_loss_that_a_message_suggests_is_accepted(tmp_path):
    lines = [f'{{"image": "{i}.png", "caption": "x", "split": "train"}}' for i in range(100)]
    for i in range(29, 100):
        write(tmp_path, f"{i}.png")
    source = tmp_path / "list.jsonl"
    source.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"--max_lost=0\.29$"):
        build(source, tmp_path)
    _, report = build(source, tmp_path, max_lost=0.29)  # 0.29 * 100 is less than 29.
    assert report["train"]["missing"] == 29


def test_the_share_for_evaluation_is_stable():
    def split_of(count):
        examples = [Example(f"{i}.png", None, []) for i in range(count)]
        splits = folder_dataset_builder.divide(examples, {})
        assert list(splits) == ["train", "val"]
        return {x.image_id: name for name, split in splits.items() for x in split.examples}

    before, after = split_of(2000), split_of(3000)
    assert len(after) == 3000 and all(after[i] == split for i, split in before.items())
    assert 0.04 < list(after.values()).count("val") / 3000 < 0.06


@pytest.mark.parametrize("count", [2, 3])
def test_few_images_have_both_splits(tmp_path, count):
    for i in range(count):
        write(tmp_path / "few", f"{i}.png", "a b c")
    form, report = build(tmp_path / "few", tmp_path)
    assert report["val"]["kept"] == 1 and report["train"]["kept"] == count - 1


def test_a_list_with_splits(tmp_path):
    write(tmp_path, "images/a.png", seed=1)
    write(tmp_path, "b.jpg", seed=2)
    lines = [
        {"image": "images/a.png", "captions": ["one a", "two a"], "split": "train"},
        {"image": str(tmp_path / "b.jpg"), "caption": "one b", "split": "dev"},
        {"image": "images/a.png", "caption": "three a", "split": "train"},
    ]
    source = tmp_path / "list.jsonl"
    source.write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)))
    form, report = build(source, tmp_path, "mine_original")
    assert form == "mine_original"
    records = read_all(tmp_path, form, ("train", "dev"))
    assert records["images/a.png"]["texts"] == ["one a", "two a", "three a"]
    assert records[str(tmp_path / "b.jpg")]["split"] == "dev"
    assert records["images/a.png"]["size"] == (48, 64)


@pytest.mark.parametrize(
    "lines,words",
    [
        (['{"image": "a.png"'], "line 1: .*delimiter"),
        (['{"captions": ["x"]}'], 'line 1: no "image"'),
        (['["a.png"]'], 'no "image"'),
        (['{"image": "../a.png", "caption": "x"}'], "'../a.png' is not below .*, the folder of"),
        (['{"image": "/etc/a.png", "caption": "x"}'], "'/etc/a.png' is not below"),
        (['{"image": "a.png", "captions": [1]}'], 'no "captions"'),
        *(
            ([f'{{"image": "a.png", "caption": "x", "split": {split}}}'], "cannot be the name of a")
            for split in ('"../y"', '"all"', '"source"', "true")
        ),
        (
            [f'{{"image": "a.png", "caption": "x", "split": "{s}"}}' for s in ("train", "val")],
            "line 2: a.png is in split train already",
        ),
        (
            [
                '{"image": "a.png", "caption": "x", "split": "val"}',
                '{"image": "b", "caption": "y"}',
            ],
            "1 of 2 images have no split, e.g. b",
        ),
        (['{"image": "a.png", "caption": "x"}'], "has 1 captioned images"),
        ([], "has 0 captioned images"),
        (
            ['{"image": "a.png", "caption": "x"}', '{"image": "no.png", "caption": "y"}'],
            r"\(1 missing, 0 undecodable, 0 without caption\): no.png",
        ),
        (['{"image": "a.png", "caption": "x"}', '{"image": "b.png", "caption": "\\ud83d "}'], None),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, lines, words):
    write(tmp_path, "a.png")
    write(tmp_path, "b.png")
    source = tmp_path / "list.jsonl"
    source.write_text("\n".join(lines))
    if words is None:  # Half a surrogate is odd, and no reason to stop.
        form, _ = build(source, tmp_path)
        assert read_all(tmp_path, form)["b.png"]["texts"] == ["?"]
        return
    with pytest.raises(UserError, match=words) as caught:
        build(source, tmp_path)
    assert "\n" not in str(caught.value)


def test_other_mistakes(tmp_path):
    write(tmp_path / "x", "a.png", b"caf\xe9")
    write(tmp_path / "x", "b.png", "fine caption here")
    with pytest.raises(UserError, match="a.txt is not UTF-8"):
        build(tmp_path / "x", tmp_path)
    with pytest.raises(UserError, match="cannot read --source=.*No such file"):
        build(tmp_path / "absent.jsonl", tmp_path)
    long_name = f'{{"image": "{"a" * 300}.png", "caption": "x"}}'
    (tmp_path / "long.jsonl").write_text('{"image": "x/b.png", "caption": "x"}\n' + long_name)
    with pytest.raises(UserError, match="1 missing"):
        build(tmp_path / "long.jsonl", tmp_path)
    builder = catalog.make_builder("folder", form="x_sq128", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="needs --source"):
        catalog.build(builder)
    with pytest.raises(UserError, match="--dataset=folder --source=… --data_dir=.* --form=x_sq128"):
        catalog.open_split("folder", form="x_sq128", split="val", data_dir=str(tmp_path))


def test_another_source_of_the_same_name_is_refused(tmp_path):
    for parent in ("one", "other"):
        for i in range(2):
            write(tmp_path / parent / "pets", f"{i}.png", "a b c", seed=i)
    build(tmp_path / "one" / "pets", tmp_path)
    build(tmp_path / "one" / "pets", tmp_path)
    with pytest.raises(UserError, match="was built from .*/one/pets, not from .*/other/pets"):
        build(tmp_path / "other" / "pets", tmp_path)


def test_prepare_tells_how_to_train_on_it(tmp_path):
    for i in range(4):
        write(tmp_path / "pets", f"{i}.png", f"pet number {i}", seed=i)
    arguments = ["--dataset=folder", f"--source={tmp_path / 'pets'}", f"--data_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "xmc_jax.prepare", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--config.data.name=folder --config.data.form=pets_sq256" in done.stdout
    assert len(read_all(tmp_path, "pets_sq256")) == 4
