"""The builders of COCO and its narratives: real builds from archives in the published formats."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests import archives
from tests.places import ROOT
from xmc_jax.data import catalog
from xmc_jax.data.builders import narrated, schema
from xmc_jax.data.builders.captioned import Settings
from xmc_jax.data.builders.coco import coco_dataset_builder
from xmc_jax.data.preprocess import decode
from xmc_jax.errors import UserError

VAL = {f"val{i}": archives.encode(archives.photograph(seed=i)) for i in range(3)}
BAD = archives.BROKEN | archives.MISSING


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Archives without loss: their folder, and the number of each image."""
    folder = tmp_path_factory.mktemp("good")
    numbers = archives.coco(folder, {"train": archives.GOOD, "val": VAL}, duplicates=2)
    lines = [
        ("train", numbers["val2"], " In this image\n there is 🐶. "),  # It is in val2014.zip.
        ("train", numbers["plain"], "First."),
        ("train", numbers["rotated"], "Other words here."),
        ("train", numbers["plain"], "The second narrative."),
        ("val", numbers["val0"], "كلب على العشب"),
    ]
    for split in ("train", "val"):
        text = "".join(archives.narrative(*line) for line in lines if line[0] == split)
        (folder / f"coco_{split}_captions.jsonl").write_text(text)
    return folder, numbers


def build(name, data_dir, manual_dir, form="sq128", **settings):
    builder = catalog.make_builder(name, form=form, data_dir=str(data_dir))
    folder = catalog.build(builder, Settings(manual_dir=manual_dir, **settings))
    return folder, json.loads((folder / "build_report.json").read_text())


def read(name, data_dir, split, form="sq128"):
    """The records of a split, texts as strings."""
    source = catalog.open_split(name, form=form, split=split, data_dir=str(data_dir))
    return [
        {
            "id": record["image/id"],
            "image": decode(record["image"], "x"),
            "size": (record["image/height"], record["image/width"]),
            "texts": record["captions"]["text"],
            "caption_ids": record["captions"]["id"],
        }
        for record in (source[i] for i in range(len(source)))
    ]


@pytest.fixture(scope="module")
def coco(good, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("coco")
    return data_dir, *build("coco", data_dir, good[0])


def test_coco_keeps_every_image_in_the_order_of_its_id(coco, good):
    records = read("coco", coco[0], "train")
    numbers = sorted(good[1][name] for name in archives.GOOD)
    assert [r["id"] for r in records] == [f"{n:012d}" for n in numbers]
    assert {r["image"].shape for r in records} == {(128, 128, 3)}
    assert {r["size"] for r in records} == {(128, 128)}
    assert len(read("coco", coco[0], "val")) == 3


def test_coco_cleans_captions_and_keeps_them_all(coco, good):
    records = {r["id"]: r for r in read("coco", coco[0], "train")}
    records = {name: records[f"{good[1][name]:012d}"] for name in archives.GOOD}
    assert records["plain"]["texts"][:2] == ["a dog on grass", "a brown dog"]
    assert records["gray"]["texts"] == archives.TEXTS["gray"]
    assert len(records["cmyk"]["texts"][0].split()) == 500
    assert records["png"]["texts"] == ["a b c", "d e f"]
    number = 10 * good[1]["png"]
    assert records["png"]["caption_ids"] == [str(number), str(number + 3)]


def test_the_report_counts(coco):
    _, folder, report = coco
    assert report["train"] == {
        "seen": 8,
        "kept": 8,
        "missing": 0,
        "undecodable": 0,
        "captionless": 0,
        "gray": 1,
        "cmyk": 1,
        "rotated": 1,
        "short_captions": 1,
        "empty_captions": 2,
        "duplicates": 4,
        "expected": 82_783,
        "complete": False,
    }
    assert (report["val"]["kept"], report["val"]["expected"]) == (3, 40_504)


def test_the_published_number_is_complete(good, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_dataset_builder.Builder, "EXPECTED", {"train": 8, "val": 4})
    _, report = build("coco", tmp_path, good[0])
    assert (report["train"]["complete"], report["val"]["complete"]) == (True, False)


def test_original_keeps_sizes(good, tmp_path):
    build("coco", tmp_path, good[0], "original")
    sizes = {
        r["id"]: (r["size"], r["image"].shape[:2])
        for r in read("coco", tmp_path, "train", "original")
    }
    for name, size in {"wide": (2, 10_000), "pixel": (1, 1), "rotated": (64, 48)}.items():
        assert sizes[f"{good[1][name]:012d}"] == (size, size)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """Archives that lack an image and hold four broken ones."""
    folder = tmp_path_factory.mktemp("lossy")
    numbers = archives.coco(folder, {"train": archives.GOOD, "val": VAL | BAD})
    return folder, numbers


def test_a_lossy_source_is_refused_and_leaves_nothing(lossy, tmp_path):
    missing = f"{lossy[1]['missing']:012d}"
    with pytest.raises(UserError) as caught:
        build("coco", tmp_path, lossy[0])
    assert "lost 1 of 8 examples (1 missing, 0 undec" in str(caught.value)
    assert missing in str(caught.value)
    with pytest.raises(UserError) as caught:
        build("coco", tmp_path, lossy[0], max_lost=0.2)
    text = str(caught.value)
    assert "val of coco/sq128/1.0.0 lost 5 of 8 examples (1 missing, 4 undecodable" in text
    assert missing in text and "--max_lost=0.625" in text and "\n" not in text
    assert list((tmp_path / "coco" / "sq128").iterdir()) == []
    with pytest.raises(UserError, match="is not in .*; build it with: python -m xmc_jax.prepare"):
        catalog.open_split("coco", form="sq128", split="val", data_dir=str(tmp_path))


def test_a_loss_can_be_accepted_and_is_counted(lossy, tmp_path, capsys):
    _, report = build("coco", tmp_path, lossy[0], max_lost=0.625)
    val = report["val"]
    counts = (val["seen"], val["kept"], val["missing"], val["undecodable"], val["complete"])
    assert counts == (8, 3, 1, 4, False)
    assert "notice: split val of coco/sq128/1.0.0 lost 5 of 8" in capsys.readouterr().err
    kept = [r["id"] for r in read("coco", tmp_path, "val")]
    assert kept == sorted(f"{lossy[1][name]:012d}" for name in VAL)


def test_an_image_without_caption_is_lost(tmp_path, monkeypatch):
    monkeypatch.setitem(archives.TEXTS, "val1", ["", " \n"])
    archives.coco(tmp_path, {"train": {"t": VAL["val0"]}, "val": VAL})
    with pytest.raises(UserError, match=r"lost 1 of 3 .*1 without caption"):
        build("coco", tmp_path / "data", tmp_path)


def test_narratives_are_examples_of_their_own(good, tmp_path):
    _, report = build("ln_coco", tmp_path, good[0])
    train, val = (read("ln_coco", tmp_path, split) for split in ("train", "val"))
    numbers = [good[1][n] for n in ("val2", "plain", "rotated", "plain")]
    assert [r["id"] for r in train] == [f"{n:012d}" for n in numbers]
    plain = f"{good[1]['plain']:012d}"
    assert [r["caption_ids"] for r in train][1::2] == [[f"{plain}-0"], [f"{plain}-1"]]
    assert train[0]["texts"] == ["In this image there is 🐶."]
    assert [r["texts"] for r in val] == [["كلب على العشب"]]
    np.testing.assert_array_equal(train[1]["image"], train[3]["image"])
    assert (report["train"]["seen"], report["train"]["short_captions"]) == (4, 1)
    assert (report["train"]["expected"], report["val"]["expected"]) == (134_272, 8_573)


def test_full_narratives_serve_too(good, tmp_path):
    manual = tmp_path / "manual"
    manual.mkdir()
    for name in ("train2014.zip", "val2014.zip", "coco_val_captions.jsonl"):
        (manual / name).symlink_to(good[0] / name)
    lines = (good[0] / "coco_train_captions.jsonl").read_text().splitlines()
    for part in range(2):
        text = "".join(
            json.dumps(json.loads(line) | archives.TRACE) + "\n" for line in lines[2 * part :][:2]
        )
        name = f"coco_train_localized_narratives-{part:05d}-of-00002.jsonl"
        (manual / name).write_text(text)
    build("ln_coco", tmp_path / "full", manual)
    build("ln_coco", tmp_path / "bare", good[0])
    full, bare = (read("ln_coco", tmp_path / kind, "train") for kind in ("full", "bare"))
    assert [(r["id"], r["texts"]) for r in full] == [(r["id"], r["texts"]) for r in bare]

    (manual / name).unlink()
    with pytest.raises(UserError, match="lacks part 1 of the 2 of coco_train_localized"):
        narrated.find_full_files(manual, "coco_train")


def test_wrong_files_are_named(good, tmp_path):
    for name in ("train2014.zip", "val2014.zip", "annotations_trainval2014.zip"):
        (tmp_path / name).symlink_to(good[0] / name)
    for split, content, words in (
        ("train", archives.narrative("train", 1, "x")[:30], "coco_train_captions.jsonl, line 1"),
        ("train", archives.narrative("val", 1, "x"), "has narratives of mscoco_val2017, not of"),
    ):
        (tmp_path / f"coco_{split}_captions.jsonl").write_text(content)
        (tmp_path / "coco_val_captions.jsonl").write_text(archives.narrative("val", 1, "x"))
        with pytest.raises(UserError, match=words):
            build("ln_coco", tmp_path / "data", tmp_path)
    (tmp_path / "train2014.zip").unlink()
    (tmp_path / "train2014.zip").symlink_to(good[0] / "val2014.zip")
    with pytest.raises(UserError, match="another archive than http://.*/train2014.zip"):
        build("coco", tmp_path / "data", tmp_path)
    (tmp_path / "train2014.zip").unlink()
    (tmp_path / "train2014.zip").write_bytes((good[0] / "train2014.zip").read_bytes()[:5000])
    with pytest.raises(UserError, match="train2014.zip is damaged or incomplete"):
        build("coco", tmp_path / "data", tmp_path)


class CocoAsTfdsWantsIt(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own checks of a builder."""

    DATASET_CLASS = coco_dataset_builder.Builder
    SPLITS = {"train": 8, "val": 3}
    BUILDER_CONFIG_NAMES_TO_TEST = ["sq128"]

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tfds.testing.make_tmp_dir()
        folder = pathlib.Path(cls.EXAMPLE_DIR)
        archives.coco(folder, {"train": archives.GOOD, "val": VAL})
        cls.DATASET_CLASS.settings = Settings(manual_dir=folder)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.DATASET_CLASS.settings = Settings()
        tfds.testing.rm_tmp_dir(cls.EXAMPLE_DIR)


def prepare(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "xmc_jax.prepare", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.long  # Another data set is killed in test_ln_open_images.
def test_a_killed_build_leaves_nothing_complete_and_can_be_repeated(tmp_path, capsys):
    big = archives.encode(archives.photograph(2000, 2800))
    archives.coco(tmp_path, {"train": {f"big{i}": big for i in range(60)}, "val": VAL})
    data_dir = tmp_path / "data"
    arguments = ["--dataset=coco", f"--data_dir={data_dir}", f"--manual_dir={tmp_path}"]
    process = prepare(*arguments, "--form=sq128", "--num_processes=2")
    folder = data_dir / "coco" / "sq128"
    while process.poll() is None and not list(folder.glob("incomplete.*")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # Ends only when no worker holds the pipes any more.
    assert process.returncode == -signal.SIGKILL
    assert [p.name.split(".")[0] for p in folder.iterdir()] == ["incomplete"]
    with pytest.raises(UserError, match="is not in"):
        catalog.open_split("coco", form="sq128", split="train", data_dir=str(data_dir))

    _, report = build("coco", data_dir, tmp_path)
    assert "is left from an interrupted build" in capsys.readouterr().err
    line = "train: 60 kept of 60 seen; NOT the whole published split, which has 82783"
    assert schema.summarise(report)[0] == line
    assert len(read("coco", data_dir, "train")) == 60


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--dataset=coco", "--source=/x"], "--source is for --dataset=folder, not for coco"),
        (["--dataset=coco", "--manual_dir=/no/such"], "--manual_dir=/no/such is not a folder"),
        (["--dataset=coco", "--max_lost=2"], "max_lost"),
        (["--dataset=coco", "--resolution=64"], "resolution"),
    ],
)
def test_wrong_flags_are_one_line(arguments, words):
    process = prepare(*arguments)
    _, err = process.communicate()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and len(errors) == 1 and words in errors[0]
    assert "Traceback" not in err


def test_without_network_and_archives_there_is_one_line(tmp_path, monkeypatch):
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        build("ln_coco", tmp_path, None)
    for words in (
        "train2014.zip",
        "coco_val_captions.jsonl",
        "localized-narratives/annotations/",
        f"{tmp_path}/downloads/manual",
    ):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
