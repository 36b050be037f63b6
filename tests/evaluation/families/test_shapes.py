"""families/shapes.py: records of both readers for images of known quality."""

import functools

import numpy as np
import pytest
from etils import epath

from xmc_jax.configs import shapes_32
from xmc_jax.evaluation.families import compose
from xmc_jax.evaluation.families import shapes as family
from xmc_jax.evaluation.image_sets import ImageSet, make_shards
from xmc_jax.evaluation.inputs import EvalInputs, Prompt
from xmc_jax.evaluation.run import format_table
from xmc_jax.parallel.sharding import make_mesh
from xmc_jax.shapes import scenes as shapes
from xmc_jax.shapes.accuracy import ATTRIBUTES
from xmc_jax.shapes.forms import parse_form

COUNT = 60


def image_set(name, images):
    shards = make_shards(25)  # Rounded up to a multiple of the devices; the last batch is short.
    parts = [images[part.start : part.stop] for part in shards.ranges(len(images))]
    return ImageSet(name, len(images), name, shards, lambda: (part for part in parts))


def make_inputs(split, generate, tmp_path, form="sq32"):
    """Prompts of a split with their real images, and others in place of generated ones."""
    config = shapes_32.get_config()
    config.data.eval_split, config.data.form = split, form
    layout = parse_form(form).layout
    scenes = [shapes.make_scene(split, i, layout) for i in range(COUNT)]
    real = np.stack([shapes.render(scene, 32, layout) for scene in scenes])
    tokens = np.zeros(4, np.int32)
    prompts = [Prompt(f"{split}-{i:06d}", "", i % 5, tokens) for i in range(COUNT)]
    return EvalInputs(
        config,
        prompts,
        image_set("real", real),
        image_set("other real", real),
        image_set("generated", generate(scenes, real)),
        lambda prompts, name: None,
        epath.Path(tmp_path),
        step=7,
        generator="g",
        open_training=lambda: image_set("training", real),
    )


@functools.cache
def measure_of(names, form):
    config = shapes_32.get_config()
    config.data.form = form
    return family.make_measure(config, make_mesh(), names)


def measure(inputs, names=family.METRICS):
    return {r.metric: r for r in measure_of(names, inputs.config.data.form)(inputs)}


def copies(scenes, real):
    return real


def half_empty(scenes, real):
    """Every other image is a bare background."""
    return np.stack(
        [
            image if i % 2 else shapes.render(scene._replace(objects=()), 32)
            for i, (scene, image) in enumerate(zip(scenes, real, strict=True))
        ]
    )


@pytest.mark.parametrize("split", ["val", "test_comp"])
def test_perfect_images_reach_the_ceiling(split, tmp_path):
    records = measure(make_inputs(split, copies, tmp_path))
    assert set(records) == {f"{name}/{a}" for name in family.METRICS for a in ATTRIBUTES}
    for record in records.values():
        assert record.value == record.ceiling >= 0.95
        assert (record.low, record.high) == (record.ceiling_low, record.ceiling_high)
        assert record.low <= record.value <= record.high
        assert split in record.protocol and record.better == "higher"
    trained = records["shapes_accuracy_trained/object"]
    assert len(trained.weights) == 64 and records["shapes_accuracy/object"].weights is None
    assert trained.floor < 0.2 and trained.floor_high < 0.5


def test_half_of_the_images_without_objects(tmp_path):
    records = measure(make_inputs("val", half_empty, tmp_path))
    for name in family.METRICS:
        record = records[f"{name}/object"]
        assert 0.35 < record.value < 0.65 and record.ceiling >= 0.95
        # Of 60 images half are right: the interval is about 2 x 0.13 wide.
        assert record.low < 0.5 < record.high and 0.15 < record.high - record.low < 0.4
        assert records[f"{name}/background"].value > 0.9


def test_all_sentences_of_a_narrative_are_claims(tmp_path):
    records = measure(make_inputs("val", copies, tmp_path, "narrative_sq32"), ("shapes_accuracy",))
    assert records["shapes_accuracy/background"].claims == COUNT
    assert records["shapes_accuracy/object"].claims > 2 * COUNT
    assert "shapes_accuracy/count" not in records


@pytest.mark.parametrize(("layout", "absent"), [("one", {"relation"}), ("two", set())])
def test_claims_and_readers_are_those_of_the_form(layout, absent, tmp_path):
    records = measure(make_inputs("test_comp", copies, tmp_path, f"{layout}_sq32_n400"))
    attributes = set(ATTRIBUTES) - absent
    assert set(records) == {f"{name}/{a}" for name in family.METRICS for a in attributes}
    for record in records.values():
        assert record.value >= 0.95 and f"reader for layout {layout}" in record.protocol


@pytest.mark.parametrize("form", ["sq32", "one_sq32"])
def test_compositional_scores_of_shapes(form, tmp_path):
    """Claims of logical forms, decided from what the trained reader finds."""
    inputs = make_inputs("val", copies, tmp_path, form)
    measure = compose.make_measure(inputs.config, make_mesh(), ["compose"])
    records = {record.metric: record for record in measure(inputs)}
    parts = {"presence", "count", "colour", "relation", "all"} - (
        {"relation"} if form != "sq32" else set()
    )
    assert set(records) == {f"compose/{part}" for part in parts}
    for record in records.values():
        assert record.value == record.ceiling >= 0.95
        # Every scene of `one` has one object, so any caption's count is right.
        is_trivial = form != "sq32" and record.metric == "compose/count"
        assert record.floor == record.value if is_trivial else record.floor < record.value
        assert "trained reader" in record.protocol and len(record.weights) == 64
    assert records["compose/count"].num_samples == records["compose/count"].claims < COUNT
    assert records["compose/all"].num_samples == COUNT


def test_only_the_readers_asked_for(tmp_path):
    records = measure(make_inputs("val", copies, tmp_path), ("shapes_accuracy_trained",))
    assert len(records) == len(ATTRIBUTES)
    assert all(name.startswith("shapes_accuracy_trained/") for name in records)


def test_the_table_shows_intervals(tmp_path):
    records = measure(make_inputs("val", half_empty, tmp_path), ("shapes_accuracy",))
    lines = format_table(list(records.values())).splitlines()
    record = records["shapes_accuracy/object"]
    assert f"{record.low:.3f} - {record.high:.3f}" in lines[1]
    assert len({len(line) for line in lines}) == 1
    assert "interval" in lines[0]
