"""records.py: TFDS's own reader as the oracle, and files that are not whole."""

import pathlib

import pytest

from xmc_jax.data import catalog
from xmc_jax.errors import UserError

FORM = "sq32_n40"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    catalog.build(catalog.make_builder("shapes", data_dir=folder, form=FORM))
    return folder


def open_split(data_dir, split="train"):
    return catalog.open_split("shapes", split=split, data_dir=data_dir, form=FORM)


def test_records_equal_those_of_tfds(data_dir):
    import tensorflow_datasets as tfds

    builder = catalog.make_builder("shapes", data_dir=data_dir, form=FORM)
    raw = {"image": tfds.decode.SkipDecoding()}
    expected = builder.as_data_source(split="train", decoders=raw)
    records = open_split(data_dir)
    assert len(records) == len(expected) == 40
    for got, want in zip(records.read(range(40)), expected, strict=True):
        assert got["image"] == want["image"]
        assert got["image/id"] == want["image/id"].decode()
        assert got["image/height"] == want["image/height"]
        assert got["image/width"] == want["image/width"]
        for field in ("text", "id"):
            assert got["captions"][field] == [s.decode() for s in want["captions"][field]]
    assert records[7] == records.read([3, 7])[1]


def cut(path):
    path.write_bytes(path.read_bytes()[:70_000])


def flip(path):
    """A bit of what the records hold: every chunk carries a hash of its bytes."""
    whole = bytearray(path.read_bytes())
    used = [place for place, byte in enumerate(whole) if byte]
    whole[used[len(used) // 2]] ^= 1
    path.write_bytes(whole)


DAMAGES = {
    "cut": cut,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_damaged_files_are_one_clear_line(data_dir, damage, when):
    (path,) = pathlib.Path(data_dir).rglob("*-val.array_record*")
    whole = path.read_bytes()
    if when == "while it is open":
        records = open_split(data_dir, "val")
    damage(path)
    try:
        with pytest.raises(UserError) as caught:
            if when == "before it is opened":
                records = open_split(data_dir, "val")
            records.read(range(5))
    finally:
        path.write_bytes(whole)
    message = str(caught.value)
    assert message.startswith(f"{path} is missing or damaged (") and "\n" not in message
    assert f"delete {path.parent} and build the data set again with python -m" in message
    assert len(open_split(data_dir, "val").read(range(5))) == 5


def test_a_damaged_description_is_one_clear_line(data_dir):
    (path,) = pathlib.Path(data_dir).rglob("dataset_info.json")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(UserError, match="data set shapes in .* is damaged .*build it again"):
            open_split(data_dir)
    finally:
        path.write_bytes(whole)
