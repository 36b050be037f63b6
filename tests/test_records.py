"""records.py: TFDS's own reader as the oracle, and files that are not whole."""

import pathlib

import pytest

from xmc_jax.data import reader
from xmc_jax.errors import UserError

FORM = "sq32_n40"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    reader.build(reader.make_builder("shapes", data_dir=folder, form=FORM))
    return folder


def open_split(data_dir, split="train"):
    return reader.open_split("shapes", split=split, data_dir=data_dir, form=FORM)


def test_records_equal_those_of_tfds(data_dir):
    import tensorflow_datasets as tfds

    builder = reader.make_builder("shapes", data_dir=data_dir, form=FORM)
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


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damaged_files_are_one_clear_line(data_dir, damage):
    split = {"cut": "val", "removed": "test"}[damage]
    records = open_split(data_dir, split)
    (path,) = pathlib.Path(data_dir).rglob(f"*-{split}.array_record*")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"files cannot be read \(.*build the data set anew"):
        records.read([0, 1])
