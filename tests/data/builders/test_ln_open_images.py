"""The builder of Open Images' narratives, with real downloads from a server of images."""

import csv
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import archives, image_server
from tests.image_server import image_bytes, send, status
from tests.places import ROOT
from xmc_jax.data import catalog, preprocess
from xmc_jax.data.builders.captioned import Settings
from xmc_jax.data.builders.images import convert, convert_on_arrival
from xmc_jax.data.builders.ln_open_images import ln_open_images_dataset_builder as module
from xmc_jax.data.download import open_images
from xmc_jax.errors import UserError

STEMS = {
    "train": ("train", "open_images_train_v6", "train-images-boxable-with-rotation.csv"),
    "val": ("validation", "open_images_validation", "validation-images-with-rotation.csv"),
    "test": ("test", "open_images_test", "test-images-with-rotation.csv"),
}
COLUMNS = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
    "OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation"
).split(",")


def name(number):
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def publish(folder, splits, rotations=()):
    """Writes narratives and lists of images as they are published; train has a list of others too.

    Args:
      folder: Where to.
      splits: Numbers of the images of each split's narratives.
      rotations: By number, as the list writes it; ``""`` for all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, (part, stem, images) in STEMS.items():
        numbers = splits[split]
        lines = [
            archives.narrative(split, name(n), f"In this image there is number {n}.").replace(
                f"mscoco_{split}2017", f"open_images_{part}"
            )
            for n in numbers
        ]
        (folder / f"{stem}_captions.jsonl").write_text("".join(lines))
        with open(folder / images, "w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS, restval="x")
            rows.writeheader()
            for n in {**dict.fromkeys(numbers), 999: None}:
                row = {"ImageID": name(n), "Title": 'a "b", c\nd', "Subset": part}
                rows.writerow(row | {"Rotation": dict(rotations).get(n, "")})
    return folder


def build(data_dir, manual_dir, server, form="sq128", **settings):
    builder = catalog.make_builder("ln_open_images", form=form, data_dir=str(data_dir))
    mirror = server if isinstance(server, str) else server.url
    folder = catalog.build(builder, Settings(manual_dir=manual_dir, mirror=mirror, **settings))
    return json.loads((folder / "build_report.json").read_text())


def read(data_dir, split, form="sq128"):
    source = catalog.open_split("ln_open_images", form=form, split=split, data_dir=str(data_dir))
    return [source[i] for i in range(len(source))]


def ids(records):
    return [record["image/id"] for record in records]


# An image with one red corner, and where that is after a turn counter-clockwise.
CORNER = np.full((64, 96, 3), 255, np.uint8)
CORNER[:32, :48] = (255, 0, 0)
TURNED = {0: "top left", 90: "bottom left", 180: "bottom right", 270: "top right"}


def red_corner(data):
    pixels = preprocess.decode(data, "x").astype(int)
    height, width = pixels.shape[:2]
    places = {
        f"{row} {column}": pixels[y * height // 4, x * width // 4, 1] < 128
        for row, y in (("top", 1), ("bottom", 3))
        for column, x in (("left", 1), ("right", 3))
    }
    (place,) = [place for place, is_red in places.items() if is_red]
    return place


@pytest.mark.parametrize("form", ["sq128", "original"])
def test_a_published_rotation_is_counter_clockwise_and_applied_once(form):
    data = archives.encode(CORNER)
    for rotation, place in TURNED.items():
        arrived = convert_on_arrival(data, form, rotation)
        stored = convert(arrived, form, rotation)
        assert red_corner(stored.data) == place and stored.rotated == (rotation > 0)
        assert stored == convert(data, form, rotation)
        assert stored == convert(stored.data, form, rotation)
        if form == "original":
            turned = rotation in (90, 270)
            assert (stored.width, stored.height) == ((64, 96) if turned else (96, 64))
    oriented = archives.oriented(CORNER, 6)  # It tells of the same turn itself.
    assert convert(oriented, form, 270).data == convert(oriented, form).data


def test_what_was_made_for_one_form_is_not_taken_for_another():
    small = convert(archives.encode(CORNER), "sq128").data
    with pytest.raises(preprocess.UndecodableImage, match="made for the form sq128"):
        convert(small, "sq256")
    resized = archives.encode(np.asarray(CORNER[:50]), comment=b"xmc_jax sq128")
    with pytest.raises(preprocess.UndecodableImage, match="made for the form sq128"):
        convert(resized, "sq128")


def test_rotations_are_read_as_published(tmp_path):
    numbers = {"train": range(8), "val": [], "test": []}
    written = {0: "0.0", 1: "90.0", 2: "180", 3: "270.0", 4: "nan", 5: "360.0"}
    path = publish(tmp_path, numbers, written) / STEMS["train"][2]
    wanted = [name(n) for n in (*range(7), 77)]
    rotations = module.read_rotations(path, wanted, "ADDRESS")
    assert rotations == dict(zip(wanted[:7], (0, 90, 180, 270, 0, 0, 0), strict=True))
    for text, words in {
        "<html>": "line 1 is not a line of a list",
        "ImageID,Rotation\n" + name(0) + ",left\n": "line 2 .*left",
        "ImageID,Rotation\n" + name(0) + ",45\n": "line 2 .*45",
        "ImageID,Rotation\n" + name(0) + "\n": "line 2 ",
        "": "line 0 ",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=f"{words}.*download it again from ADDRESS"):
            module.read_rotations(path, wanted, "ADDRESS")


SPLITS = {"train": [1, 2, 1, 3, 4, 5], "val": [10, 11], "test": [20, 21, 20]}


def serve_oddities(server):
    """One image is gone, one is none, one is gray, and one has a red corner."""
    gray = archives.encode(archives.photograph(), mode="L")
    server.faults = {
        name(3): status(404),
        name(4): image_server.web_page,
        name(5): lambda handler, _: send(handler, gray, s3=True),
        name(11): lambda handler, _: send(handler, archives.encode(CORNER), s3=True),
    }
    return {11: "90.0", 2: "180.0", 20: "0.0"}


def prepare(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "xmc_jax.prepare", "--dataset=ln_open_images", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_verb_builds_all_splits_from_nothing_but_a_server(server, tmp_path):
    rotations = serve_oddities(server)
    manual = publish(tmp_path / "data" / "downloads" / "manual", SPLITS, rotations)
    flags = [f"--data_dir={tmp_path / 'data'}", f"--mirror={server.url}/", "--form=sq128"]
    process = prepare(*flags, "--max_lost=0.34")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "(train 4, val 2, test 3)" in out and "NOT the whole published split" in out
    # Two narratives share an image, which comes once; so does what a server refuses.
    assert sorted(server.asked()) == sorted(name(n) for n in (1, 2, 3, 4, 5, 10, 11, 20, 21))
    folders = {request.path.split("/")[1] for request in server.log}
    assert folders == {"train", "validation", "test"}
    assert f"using {manual / 'open_images_train_v6_captions.jsonl'}" in err

    report = catalog.schema.read_report(tmp_path / "data/ln_open_images/sq128/1.0.0")
    train, val = report["train"], report["val"]
    assert [train[k] for k in ("seen", "kept", "missing", "undecodable", "gray", "rotated")] == [
        *(6, 4, 1, 1, 1, 1)
    ]
    assert (val["kept"], val["rotated"], report["test"]["rotated"]) == (2, 1, 0)
    assert train["expected"] == 507_444 and report["source"] == {"unlisted": 0}

    records = read(tmp_path / "data", "train")
    assert ids(records) == [name(n) for n in (1, 2, 1, 5)]
    assert [r["captions"]["id"] for r in records[::2]] == [[f"{name(1)}-0"], [f"{name(1)}-1"]]
    assert records[1]["captions"]["text"] == ["In this image there is number 2."]
    assert records[0]["image"] == convert(image_bytes(name(1)), "sq128").data
    assert records[1]["image"] == convert(image_bytes(name(2)), "sq128", 180).data
    assert red_corner(read(tmp_path / "data", "val")[1]["image"]) == "bottom left"


def test_too_much_lost_is_refused_before_it_is_built(server, tmp_path):
    manual = publish(tmp_path / "manual", SPLITS, serve_oddities(server))
    with pytest.raises(UserError, match=rf"lost 1 of 6 .*1 missing, 0 undec.*{name(3)}"):
        build(tmp_path, manual, server, max_lost=0.1)
    with pytest.raises(UserError, match=r"lost 2 of 6 .*1 missing, 1 undec.*not an image"):
        build(tmp_path, manual, server, max_lost=0.2)


def test_originals_keep_their_bytes_but_are_turned(server, tmp_path):
    manual = publish(tmp_path / "manual", SPLITS, {2: "90"})
    build(tmp_path, manual, server, "original")
    records = read(tmp_path, "train", "original")
    assert records[0]["image"] == image_bytes(name(1))
    assert (records[1]["image/height"], records[1]["image/width"]) == (64, 48)
    downloaded = tmp_path / "downloads/open_images/original"
    path = open_images.path_of(downloaded, open_images.RemoteImage("train", name(2)))
    assert path.read_bytes() == image_bytes(name(2))


def test_a_folder_of_the_users_is_taken_first(server, tmp_path):
    manual = publish(tmp_path / "manual", SPLITS, {2: "90"})
    elsewhere = tmp_path / "elsewhere"
    places = {1: "open_images/a/b", 2: "train", 3: "validation/wrong", 4: "train/00", 10: "test"}
    for number, place in places.items():
        folder = (elsewhere if place.startswith("train") else manual) / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name(number)}.jpg").write_bytes(image_bytes(name(number)))
    (manual / "train").symlink_to(elsewhere / "train")
    (manual / "train" / "readme.jpg").write_bytes(b"")
    build(tmp_path, manual, server)
    assert sorted(server.asked()) == sorted(name(n) for n in (5, 11, 20, 21))
    assert read(tmp_path, "train")[1]["image"] == (convert(image_bytes(name(2)), "sq128", 90).data)
    # When all are there, nobody is asked; the full files serve as well.
    everything = publish(tmp_path / "everything", SPLITS)
    for stem, full in (
        ("open_images_train_v6", "localized_narratives-00000-of-00001"),
        ("open_images_validation", "localized_narratives"),
    ):
        captions = everything / f"{stem}_captions.jsonl"
        captions.rename(everything / f"{stem}_{full}.jsonl")
    (everything / "open_images").mkdir()
    for number in (1, 2, 3, 4, 5, 10, 11, 20, 21):
        path = everything / "open_images" / f"{name(number)}.jpg"
        path.write_bytes(image_bytes(name(number)))
    report = build(tmp_path / "b", everything, "http://127.0.0.1:9")
    assert [report[split]["kept"] for split in STEMS] == [6, 2, 3]
    assert not (tmp_path / "b" / "downloads" / "open_images").exists()


def test_an_unreachable_server_is_one_line_that_counts(tmp_path):
    manual = publish(tmp_path / "manual", SPLITS | {"train": list(range(100, 160))})
    with pytest.raises(UserError) as caught:
        build(tmp_path, manual, "http://127.0.0.1:9")
    for words in (
        "http://127.0.0.1:9/",
        "(no connection",
        "64 images of 64 are still to come",
        f"into {manual}/open_images",
    ):
        assert words in str(caught.value)
    with pytest.raises(UserError, match="must begin with http"):
        build(tmp_path, manual, "ftp://host")


def test_files_of_other_splits_are_refused(server, tmp_path):
    manual = publish(tmp_path, SPLITS)
    (manual / "open_images_test_captions.jsonl").write_bytes(
        (manual / "open_images_validation_captions.jsonl").read_bytes()
    )
    with pytest.raises(UserError, match="open_images_test.* has narratives of open_images_valid"):
        build(tmp_path, manual, server)


def test_a_build_goes_on_where_one_was_killed(server, tmp_path):
    manual = publish(tmp_path / "manual", SPLITS | {"train": list(range(100, 400))})
    server.before = lambda: time.sleep(0.05)
    flags = [f"--data_dir={tmp_path}", f"--mirror={server.url}", "--form=sq128"]
    process = prepare(*flags, f"--manual_dir={manual}")
    while len(server.log) < 100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    while server.num_active:
        time.sleep(0.01)
    come = {path.stem for path in tmp_path.rglob("*.jpg")}
    assert len(come) > 50 and not (tmp_path / "ln_open_images/sq128/1.0.0").exists()
    server.log.clear()
    server.before = lambda: None
    report = build(tmp_path, manual, server)
    assert report["train"]["kept"] == 300
    assert not come & set(server.asked()) and len(come) + len(server.log) == 304


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--beam_options=region=x"], "--beam_options needs --beam_runner"),
        (["--mirror=http://x", "--dataset=coco"], "--mirror is for --dataset=ln_open_images"),
        (["--beam_runner=DirectRunner", "--dataset=shapes"], "shapes are fast without it"),
    ],
)
def test_wrong_flags_are_one_line(flags, words):
    process = prepare(*flags)
    _, err = process.communicate()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and words in line and "Traceback" not in err
