"""reader.py and the shapes builder, on a real build."""

import json

import numpy as np
import pytest

from xmc_jax.data import reader, shapes, shapes_captions
from xmc_jax.data.preprocess import decode
from xmc_jax.errors import UserError

SCALE = 0.001  # 40 training examples and 5 of each other split.


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    reader.build(reader.make_builder("shapes", resolution=32, data_dir=str(folder), scale=SCALE))
    return str(folder)


@pytest.fixture(scope="module")
def source(data_dir):
    return reader.open_split("shapes", resolution=32, split="train", data_dir=data_dir, scale=SCALE)


def test_prepared_examples_equal_those_made_on_the_fly(source):
    assert len(source) == 40
    for index in range(40):
        record, example = source[index], shapes_captions.make_example("train", index)
        assert record["image/id"] == example.id
        assert record["captions"]["text"] == [c.text for c in example.captions]
        assert record["captions"]["id"] == [f"{example.id}-{i}" for i in range(5)]
        image = decode(record["image"], example.id)
        np.testing.assert_array_equal(image, shapes.render(example.scene, 32))
        assert (record["image/height"], record["image/width"]) == (32, 32)


def test_narratives_are_prepared_too(tmp_path):
    options = {"resolution": 32, "data_dir": str(tmp_path), "narrative": True, "scale": SCALE}
    source = reader.open_split("shapes", split="val", build_missing=True, **options)
    (text,) = source[2]["captions"]["text"]
    assert text == shapes_captions.make_narrative("val", 2)[1].text


def test_build_report(data_dir):
    builder = reader.make_builder("shapes", resolution=32, data_dir=data_dir, scale=SCALE)
    report = json.loads((reader.build(builder) / "build_report.json").read_text())
    assert set(report) == set(shapes.SPLITS)
    assert report["train"]["seen"] == report["train"]["kept"] == 40
    assert report["train"]["undecodable"] == 0


def test_missing_data_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"xmc_jax.prepare --dataset=shapes .*--resolution=64"):
        reader.open_split("shapes", resolution=64, split="train", data_dir=str(tmp_path))


def test_unknown_names_are_refused(data_dir):
    with pytest.raises(UserError, match="no data set 'cocoa'; there are shapes"):
        reader.make_builder("cocoa", resolution=32, data_dir=data_dir)
    with pytest.raises(UserError, match="no split 'dev'; it has train, val"):
        reader.open_split("shapes", resolution=32, split="dev", data_dir=data_dir, scale=SCALE)
    with pytest.raises(UserError, match="scale=2.0"):
        reader.make_builder("shapes", resolution=32, data_dir=data_dir, scale=2.0)


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="choose another --data_dir"):
        reader.open_split(
            "shapes",
            resolution=32,
            split="val",
            data_dir=str(file),
            scale=SCALE,
            build_missing=True,
        )
