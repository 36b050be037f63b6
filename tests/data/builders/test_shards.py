"""The builder of a user's own images, from tar archives as img2dataset writes them."""

import io
import json
import subprocess
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest

from tests import archives
from tests.data.builders.test_coco import read
from tests.data.builders.test_folder import build
from tests.places import ROOT
from xmc_jax.data.builders import tars
from xmc_jax.data.builders.folder import shards
from xmc_jax.data.builders.folder.folder_dataset_builder import name_form
from xmc_jax.errors import UserError


def jpeg(seed):
    return archives.encode(archives.photograph(seed=seed))


def write_tar(path, files, **options):
    """A tar archive of files by name, in their order; a list of pairs may repeat names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def example(key, seed, text="a nice picture", metadata=None):
    """The files of an example of img2dataset."""
    metadata = {"caption": text, "status": "success", "key": key} | (metadata or {})
    files = {f"{key}.jpg": jpeg(seed), f"{key}.json": json.dumps(metadata).encode()}
    return files | ({f"{key}.txt": text.encode()} if text is not None else {})


def shard(number, count):
    keys = [f"{number:05d}{i:04d}" for i in range(count)]
    return {k: v for i, key in enumerate(keys) for k, v in example(key, i, f"photo {key}").items()}


def read_all(data_dir, form):
    return {r["id"]: r for split in ("train", "val") for r in read("folder", data_dir, split, form)}


def total(report, name):
    return report["train"][name] + report["val"][name]


@pytest.mark.parametrize("source", ["shards/*.tar", "shards", "shards/*"])
def test_archives_of_a_pattern_or_a_folder(tmp_path, source):
    for number, count in ((0, 30), (1, 20)):
        write_tar(tmp_path / f"shards/{number:05d}.tar", shard(number, count))
        (tmp_path / f"shards/{number:05d}_stats.json").write_text("{}")
    form, report = build(tmp_path / source, tmp_path)
    assert form == "shards_sq128"
    records = read_all(tmp_path, form)
    assert sorted(records) == [f"{n:05d}{i:04d}" for n, c in ((0, 30), (1, 20)) for i in range(c)]
    assert records["000010003"]["texts"] == ["photo 000010003"]
    assert records["000010003"]["caption_ids"] == ["000010003-0"]
    assert report["source"] == {"path": str(tmp_path / source)}
    assert total(report, "kept") == total(report, "seen") == 50


def test_one_archive_and_every_way_to_write_captions(tmp_path):
    text = "one of a\n\ntwo of a\nde.utf8=drei\n"
    files = example("x/a", 1, text, {"caption": "not this"})
    files |= example("b.c", 2, None, {"caption": "one of b"})  # The key ends at the first dot.
    files |= {
        "c.webp": archives.encode(archives.photograph(), "WEBP"),
        "c.txt": b"\xef\xbb\xbfone of c",
    }
    files |= {"d.JPG": jpeg(4), "d.json": b'{"captions": ["one of d", "two"]}', "d.cls": b"7"}
    files |= {"._d.jpg": b"x", "index.json": b'{"shards": 3}', "e.seg.png": b"mask"}
    del files["b.c.json"]
    files |= {"b.json": b'{"caption": "one of b"}', "b.jpg": files.pop("b.c.jpg")}
    write_tar(tmp_path / "mine.tar", files, format=tarfile.PAX_FORMAT)
    form, report = build(tmp_path / "mine.tar", tmp_path, "mine_original")
    assert total(report, "seen") == 4
    records = read_all(tmp_path, form)
    assert records["x/a"]["texts"] == ["one of a", "two of a"]
    assert records["b"]["texts"] == ["one of b"]
    assert records["c"]["texts"] == ["one of c"]
    assert records["d"]["texts"] == ["one of d", "two"]
    np.testing.assert_allclose(records["b"]["image"], archives.photograph(seed=2), atol=20)


def test_what_is_lost_is_counted(tmp_path):
    files = shard(0, 50)
    files["000000001.jpg"] = files["000000001.jpg"][:400]
    files["000000002.jpg"] = b"<html>"
    del files["000000003.jpg"]
    del files["000000004.txt"], files["000000004.json"]
    files |= {"000000005.txt": b"caf\xe9", "000000006.txt": b" \n"}
    del files["000000007.txt"]
    files["000000007.json"] = b'{"caption": null}'
    files["000000008.jpg"] = archives.encode(archives.photograph(), mode="L")
    write_tar(tmp_path / "x.tar", files)
    with pytest.raises(UserError, match=r"\(1 missing, 0 undecodable.*: 000000003; repair") as e:
        build(tmp_path / "x.tar", tmp_path)
    assert "\n" not in str(e.value)
    _, report = build(tmp_path / "x.tar", tmp_path, max_lost=0.5)
    counts = {name: total(report, name) for name in ("seen", "kept", "missing", "undecodable")}
    assert counts == {"seen": 50, "kept": 43, "missing": 1, "undecodable": 2}
    assert total(report, "captionless") == 4 and total(report, "gray") == 1


def test_the_first_of_repeated_keys_is_kept(tmp_path):
    write_tar(
        tmp_path / "s/a.tar", [*shard(0, 20).items(), *example("000000003", 90, "again").items()]
    )
    write_tar(tmp_path / "s/b.tar", shard(1, 5) | example("000000004", 91, "again"))
    form, report = build(tmp_path / "s", tmp_path)
    assert total(report, "kept") == total(report, "seen") == 25 and total(report, "duplicates") == 2
    records = read_all(tmp_path, form)
    assert records["000000003"]["texts"] == ["photo 000000003"]
    assert records["000000004"]["texts"] == ["photo 000000004"]


def cut(data, where):
    """A tar archive that ends in the middle of an image, of a header, or between two files."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        last = archive.getmembers()[-3]  # An image.
    ends = {"image": last.offset_data + 100, "header": last.offset + 100, "between": last.offset}
    if where == "damaged":
        return data[: last.offset] + b"x" * 512 + data[last.offset + 512 :]
    return data[: ends[where]]


@pytest.mark.parametrize("where", ["image", "header", "between", "damaged"])
def test_an_archive_that_is_cut_off_keeps_what_came_before(tmp_path, capsys, where):
    write_tar(tmp_path / "s/a.tar", shard(0, 20))
    write_tar(tmp_path / "s/b.tar", shard(1, 20))
    path = tmp_path / "s/a.tar"
    path.write_bytes(cut(path.read_bytes(), where))
    with pytest.raises(
        UserError, match=r"undecodable, 0 without caption\): .*a.tar \(.*--max_lost"
    ):
        build(tmp_path / "s", tmp_path)
    assert "s/a.tar is damaged (" in capsys.readouterr().err
    form, report = build(tmp_path / "s", tmp_path, max_lost=0.9)
    assert total(report, "kept") == 39 and len(read_all(tmp_path, form)) == 39
    # The archive counts as one, for what nobody can count.
    assert total(report, "undecodable") == (2 if where == "image" else 1)
    assert total(report, "captionless") == 0


@pytest.mark.parametrize(
    "source,words",
    [
        ("absent/*.tar", r"absent/\*.tar matches no .tar archive"),
        ("absent.tar", "cannot read .*absent.tar: No such file"),
        ("text.tar", "lost 1 of|has 1 captioned images"),
        ("empty", "has 0 captioned images"),
        ("a.tar.gz", "a.tar.gz is compressed, and is read in place; unpack it first"),
    ],
)
def test_other_mistakes(tmp_path, source, words):
    (tmp_path / "text.tar").write_text("no archive")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words) as caught:
        build(tmp_path / source, tmp_path)
    assert "\n" not in str(caught.value)


def test_names_of_forms(tmp_path):
    assert name_form(tmp_path / "LAION art" / "*.tar") == "laion-art_sq256"
    assert name_form(tmp_path / "00000.tar", "sq128") == "00000_sq128"


def test_a_folder_of_images_stays_one_beside_an_archive(tmp_path):
    for i in range(2):
        (tmp_path / f"pets/{i}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / f"pets/{i}.jpg").write_bytes(jpeg(i))
        (tmp_path / f"pets/{i}.txt").write_text("a pet here")
    write_tar(tmp_path / "pets/backup.tar", shard(0, 3))
    _, report = build(tmp_path / "pets", tmp_path)
    assert total(report, "kept") == 2


# In one process, which alone has the bucket, but for the processes that it forks.
IN_A_BUCKET = """
import sys
from tests import bucket
bucket.mount()

from etils import epath
from tests.data.builders.test_folder import build

shards, data_dir = map(epath.Path, sys.argv[1:])
for path in shards.iterdir():
    (epath.Path("gs://bucket/shards") / path.name).write_bytes(path.read_bytes())
build(epath.Path("gs://bucket/shards/*.tar"), data_dir)
"""


@pytest.mark.parametrize("where", ["bucket", "beam"])
def test_archives_in_a_bucket_or_on_beam_give_the_same_records(tmp_path, where):
    for number, count in ((0, 12), (1, 8)):
        write_tar(tmp_path / f"shards/{number:05d}.tar", shard(number, count))
    form, report = build(tmp_path / "shards/*.tar", tmp_path)
    if where == "beam":
        _, other = build(tmp_path / "shards/*.tar", tmp_path / "other", beam_runner="DirectRunner")
        assert other == report
    else:
        command = [sys.executable, "-c", IN_A_BUCKET, tmp_path / "shards", tmp_path / "other"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    records, others = (read_all(folder, form) for folder in (tmp_path, tmp_path / "other"))
    assert len(records) == 20
    np.testing.assert_equal(others, records)


def test_images_stay_in_the_archive(tmp_path):
    size = 4 << 20
    write_tar(
        tmp_path / "x.tar", {f"{i}.{k}": bytes(size) for i in range(5) for k in ("jpg", "txt")}
    )
    tracemalloc.start()
    examples = shards.read_examples([tmp_path / "x.tar"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(examples) == 5 and examples[0].location.size == size
    assert peak < 5 * 3e6  # Texts are cut at one MB; a character takes up to four bytes.


def test_scan_sees_files_alone(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("d/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(folder)
        archive.addfile(link)
        info = tarfile.TarInfo("d/" + "long" * 40 + ".jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    with open(tmp_path / "x.tar", "rb") as file:
        (member,) = tars.scan(file)
        file.seek(member.offset)
        assert member.name == info.name and file.read(member.size) == b"abc"
