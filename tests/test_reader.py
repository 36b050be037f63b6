"""reader.py and the shapes builder, on a real build: pure streams, whole evaluations."""

import json

import numpy as np
import pytest

from xmc_jax.data import reader, shapes, shapes_captions
from xmc_jax.data.preprocess import decode
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.errors import UserError
from xmc_jax.frozen.text_encoder import load_text_encoder

FORM = "sq32_n40"  # 40 training examples and 5 of each other split.


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    reader.build(reader.make_builder("shapes", form=FORM, data_dir=str(folder)))
    return str(folder)


@pytest.fixture(scope="module")
def source(data_dir):
    return reader.open_split("shapes", form=FORM, split="train", data_dir=data_dir)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(load_text_encoder("minilm").vocabulary_file, 20)


def test_prepared_examples_equal_those_made_on_the_fly(source):
    assert len(source) == 40
    for index in range(40):
        record, example = source[index], shapes_captions.make_example("train", index)
        assert reader._text(record["image/id"]) == example.id
        texts = [reader._text(t) for t in record["captions"]["text"]]
        assert texts == [c.text for c in example.captions]
        image = decode(record["image"], example.id)
        np.testing.assert_array_equal(image, shapes.render(example.scene, 32))
        assert (record["image/height"], record["image/width"]) == (32, 32)


def test_narratives_are_prepared_too(tmp_path):
    source = reader.open_split(
        "shapes",
        form="narrative_sq32_n40",
        split="val",
        data_dir=str(tmp_path),
        build_missing=True,
    )
    (text,) = source[2]["captions"]["text"]
    assert reader._text(text) == shapes_captions.make_narrative("val", 2)[1].text


def test_build_report(data_dir):
    builder = reader.make_builder("shapes", form=FORM, data_dir=data_dir)
    report = json.loads((reader.build(builder) / "build_report.json").read_text())
    assert set(report) == set(shapes.SPLITS)
    assert report["train"]["seen"] == report["train"]["kept"] == 40
    assert report["train"]["undecodable"] == 0


def batches(source, tokenizer, count, **options):
    options = {"resolution": 32, "batch_size": 4, "num_micro_batches": 2, "seed": 3} | options
    stream = reader.train_batches(source, tokenizer, **options)
    return [next(stream) for _ in range(count)]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.tokens, b.tokens)


def test_shapes_and_types(source, tokenizer):
    (batch,) = batches(source, tokenizer, 1)
    assert batch.image.shape == (2, 4, 32, 32, 3) and batch.image.dtype == np.uint8
    assert batch.tokens.shape == (2, 4, 20) and batch.tokens.dtype == np.int32
    assert np.all(batch.tokens[..., 0] == 101)


def test_the_stream_is_a_function_of_seed_and_step(source, tokenizer):
    whole = batches(source, tokenizer, 14)  # Almost three epochs.
    assert_equal(whole, batches(source, tokenizer, 14))
    assert_equal(whole[9:], batches(source, tokenizer, 5, start_step=9))
    other = batches(source, tokenizer, 1, seed=4)
    assert np.any(other[0].image != whole[0].image)


def test_each_epoch_visits_every_example_once_in_an_order_of_its_own(source, tokenizer):
    images = np.concatenate(
        [b.image.reshape(-1, 32 * 32 * 3) for b in batches(source, tokenizer, 10)]
    )
    pool = [decode(source[i]["image"], "x").ravel() for i in range(40)]
    order = [next(i for i, p in enumerate(pool) if np.array_equal(p, x)) for x in images]
    assert sorted(order[:40]) == sorted(order[40:]) == list(range(40))
    assert order[:40] != order[40:] != list(range(40))


def test_captions_vary_between_epochs(source, tokenizer):
    seen = {}
    for batch in batches(source, tokenizer, 20):
        for image, tokens in zip(
            batch.image.reshape(-1, 3072), batch.tokens.reshape(-1, 20), strict=True
        ):
            seen.setdefault(image.tobytes(), set()).add(tokens.tobytes())
    assert np.mean([len(v) for v in seen.values()]) > 1.5


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_global_batch(source, tokenizer, process_count):
    whole = batches(source, tokenizer, 3)
    parts = [
        batches(source, tokenizer, 3, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    for step, batch in enumerate(whole):
        joined = np.concatenate([part[step].image for part in parts], axis=1)
        np.testing.assert_array_equal(joined, batch.image)


def evaluate(source, tokenizer, **options):
    options = {"resolution": 32, "batch_size": 16, "num_examples": 37, "seed": 5} | options
    return list(reader.eval_examples(source, tokenizer, **options))


def test_evaluation_drops_nothing_and_counts_nothing_twice(source, tokenizer):
    parts = evaluate(source, tokenizer)
    assert [p.valid.sum() for p in parts] == [16, 16, 5]
    assert {p.image.shape for p in parts} == {(16, 32, 32, 3)}
    ids = [i for p in parts for i in p.ids]
    assert len(ids) == len(set(ids)) == 37
    again = evaluate(source, tokenizer, batch_size=7)
    assert [c for p in again for c in p.captions] == [c for p in parts for c in p.captions]
    for part in parts:
        for example_id, caption, index in zip(
            part.ids, part.captions, part.caption_indices, strict=True
        ):
            example = shapes_captions.example_from_id(example_id)
            assert example.captions[index].text == caption


def test_asking_for_more_than_there_is_gives_all(source, tokenizer):
    assert sum(p.valid.sum() for p in evaluate(source, tokenizer, num_examples=1000)) == 40


def test_missing_data_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"xmc_jax.prepare --dataset=shapes .*--form=sq64"):
        reader.open_split("shapes", form="sq64", split="train", data_dir=str(tmp_path))


def test_unknown_names_are_refused(data_dir):
    with pytest.raises(
        UserError, match="no data set 'cocoa'; there are coco, ln_coco, ln_open_images"
    ):
        reader.make_builder("cocoa", data_dir=data_dir)
    with pytest.raises(UserError, match="no split 'dev'; it has train, val"):
        reader.open_split("shapes", form=FORM, split="dev", data_dir=data_dir)


@pytest.mark.parametrize(
    "name,form,words",
    [
        ("shapes", "sq32_n40001", "there are 40000 training examples"),
        ("shapes", "sq8", "below 16 pixels"),
        ("shapes", "large", "forms are like sq32, narrative_sq64"),
        ("coco", "sq32", "no form 'sq32'; there are sq256, sq128, original"),
        ("folder", "", "e.g. holidays_sq256"),
        ("folder", "holidays_sq32", "forms sq256, sq128, original"),
    ],
)
def test_unknown_forms_are_refused(tmp_path, name, form, words):
    with pytest.raises(UserError, match=words):
        reader.make_builder(name, form=form, data_dir=str(tmp_path))


@pytest.mark.parametrize("name,form", [("shapes", "sq32"), ("coco", "sq256"), ("ln_coco", "sq256")])
def test_the_first_form_is_the_default(tmp_path, name, form):
    builder = reader.make_builder(name, data_dir=str(tmp_path))
    assert (builder.name, builder.builder_config.name) == (name, form)


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="choose another --data_dir"):
        reader.open_split("shapes", form=FORM, split="val", data_dir=str(file), build_missing=True)
