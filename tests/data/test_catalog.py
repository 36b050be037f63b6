"""catalog.py and the shapes builder, on a real build."""

import json

import numpy as np
import pytest

from xmc_jax.data import catalog
from xmc_jax.data.preprocess import decode
from xmc_jax.errors import UserError
from xmc_jax.shapes import captions, scenes

FORM = "sq32_n40"  # 40 training examples and 5 of each other split.


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    catalog.build(catalog.make_builder("shapes", form=FORM, data_dir=str(folder)))
    return str(folder)


@pytest.fixture(scope="module")
def source(data_dir):
    return catalog.open_split("shapes", form=FORM, split="train", data_dir=data_dir)


def test_prepared_examples_equal_those_made_on_the_fly(source):
    assert len(source) == 40
    for index in range(40):
        record, example = source[index], captions.make_example("train", index)
        assert record["image/id"] == example.id
        assert record["captions"]["text"] == [c.text for c in example.captions]
        assert record["captions"]["id"] == [f"{example.id}-{i}" for i in range(5)]
        image = decode(record["image"], example.id)
        np.testing.assert_array_equal(image, scenes.render(example.scene, 32))
        assert (record["image/height"], record["image/width"]) == (32, 32)


def test_narratives_are_prepared_too(tmp_path):
    source = catalog.open_split(
        "shapes", form="narrative_sq32_n40", split="val", data_dir=str(tmp_path)
    )
    (text,) = source[2]["captions"]["text"]
    assert text == captions.make_narrative("val", 2)[1].text


@pytest.mark.parametrize("layout", ["one", "two"])
def test_easier_layouts_are_prepared_too(tmp_path, layout):
    source = catalog.open_split(
        "shapes", form=f"{layout}_sq32_n40", split="test_comp", data_dir=str(tmp_path)
    )
    assert len(source) == 5
    for index in range(5):
        record, example = source[index], captions.make_example("test_comp", index, layout)
        assert record["captions"]["text"] == [c.text for c in example.captions]
        image = decode(record["image"], example.id)
        np.testing.assert_array_equal(image, scenes.render(example.scene, 32, layout))


def test_two_processes_may_build_the_same(tmp_path, monkeypatch, capsys):
    """The one that ends later takes what the other has made."""
    slow, fast = (
        catalog.make_builder("shapes", form=FORM, data_dir=str(tmp_path)) for _ in range(2)
    )
    split_generators = slow._split_generators

    def wait_for_the_other(manager):
        catalog.build(fast)
        return split_generators(manager)

    monkeypatch.setattr(slow, "_split_generators", wait_for_the_other)
    folder = catalog.build(slow)
    assert "another process has built" in capsys.readouterr().err
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # Nothing half-made.
    records = catalog.open_split("shapes", form=FORM, split="val", data_dir=str(tmp_path))
    assert len(records)


def test_build_report(data_dir):
    builder = catalog.make_builder("shapes", form=FORM, data_dir=data_dir)
    report = json.loads((catalog.build(builder) / "build_report.json").read_text())
    assert set(report) == set(scenes.SPLITS)
    assert report["train"]["seen"] == report["train"]["kept"] == 40
    assert report["train"]["undecodable"] == 0


def test_missing_data_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"xmc_jax.prepare --dataset=coco .*--form=sq128"):
        catalog.open_split("coco", form="sq128", split="train", data_dir=str(tmp_path))


def test_unknown_names_are_refused(data_dir):
    with pytest.raises(
        UserError, match="no data set 'cocoa'; there are coco, ln_coco, ln_open_images"
    ):
        catalog.make_builder("cocoa", data_dir=data_dir)
    with pytest.raises(UserError, match="no split 'dev'; it has train, val"):
        catalog.open_split("shapes", form=FORM, split="dev", data_dir=data_dir)


@pytest.mark.parametrize(
    "name,form,words",
    [
        ("shapes", "sq32_n40001", "there are 40000 training examples"),
        ("shapes", "sq8", "below 16 pixels"),
        ("shapes", "large", "forms are like sq32, narrative_sq64, one_sq32, two_sq64, sq32_n400"),
        ("shapes", "full_sq32", "no form 'full_sq32'"),
        ("shapes", "three_sq32", "no form 'three_sq32'"),
        ("coco", "sq32", "no form 'sq32'; there are sq256, sq128, original"),
        ("folder", "", "e.g. holidays_sq256"),
        ("folder", "holidays_sq32", "forms sq256, sq128, original"),
    ],
)
def test_unknown_forms_are_refused(tmp_path, name, form, words):
    with pytest.raises(UserError, match=words):
        catalog.make_builder(name, form=form, data_dir=str(tmp_path))


@pytest.mark.parametrize("name,form", [("shapes", "sq32"), ("coco", "sq256"), ("ln_coco", "sq256")])
def test_the_first_form_is_the_default(tmp_path, name, form):
    builder = catalog.make_builder(name, data_dir=str(tmp_path))
    assert (builder.name, builder.builder_config.name) == (name, form)


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="choose another --data_dir"):
        catalog.open_split("shapes", form=FORM, split="val", data_dir=str(file))
