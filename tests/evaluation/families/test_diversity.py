"""families/diversity.py: images that are known, and those of a small generator."""

import functools

import jax
import numpy as np
import pytest
from etils import epath

from tests import small_experiment, small_step
from tests.evaluation.families.test_shapes import image_set
from xmc_jax.configs import shapes_32
from xmc_jax.evaluation import generation
from xmc_jax.evaluation.families import diversity as family
from xmc_jax.evaluation.inputs import EvalInputs, Prompt
from xmc_jax.evaluation.run import format_table
from xmc_jax.metrics.diversity import mean_pairwise_distances
from xmc_jax.parallel.sharding import make_mesh
from xmc_jax.shapes.captions import make_example
from xmc_jax.shapes.scenes import render
from xmc_jax.train_state import init_generator

NUM_PROMPTS, NUM_CAPTIONS = 40, 5


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few captions, so that a short search finds enough scenes."""
    monkeypatch.setattr(family, "_MAX_CAPTIONS", NUM_CAPTIONS)
    monkeypatch.setattr(family, "_NUM_SEARCHED", 1500)


def make_inputs(generate, tmp_path, num_prompts=NUM_PROMPTS):
    config = shapes_32.get_config()
    config.data.form = "one_sq32"
    tokens = np.array([1, 2, 3, 0, 0], np.int32)
    examples = [make_example("val", i, "one") for i in range(num_prompts)]
    prompts = [Prompt(x.id, x.captions[i % 5].text, i % 5, tokens) for i, x in enumerate(examples)]
    images = image_set("real", np.zeros((num_prompts, 32, 32, 3), np.uint8))
    scratch = epath.Path(tmp_path)
    return EvalInputs(
        config, prompts, images, images, images, generate, scratch, 7, "g", lambda: images
    )


def measure(inputs):
    (record,) = family.make_measure(inputs.config, make_mesh(), ("shapes_diversity",))(inputs)
    return record


def chosen(inputs):
    tried = [(prompt.example_id, prompt.caption_index) for prompt in inputs.prompts]
    return family._choose(tuple(tried[: 2 * NUM_CAPTIONS]), "one")[:NUM_CAPTIONS]


def test_one_image_for_all_noises_is_the_floor(tmp_path, rng):
    def generate(prompts, name):
        ids = sorted({prompt.example_id for prompt in prompts})
        images = rng.integers(0, 256, (len(ids), 32, 32, 3)).astype(np.uint8)
        return image_set(name, images[[ids.index(prompt.example_id) for prompt in prompts]])

    record = measure(make_inputs(generate, tmp_path))
    assert (record.value, record.low, record.high, record.floor) == (0, 0, 0, 0)
    assert 0.05 < record.ceiling_low < record.ceiling < record.ceiling_high < 0.8
    assert record.metric == "shapes_diversity" and record.better == "higher"
    assert record.num_samples == 8 * NUM_CAPTIONS
    assert "val" in record.protocol and format_table([record])


def test_real_images_reach_the_ceiling(tmp_path):
    def generate(prompts, name):
        assert [p.example_id for p in prompts] == [
            inputs.prompts[c.index].example_id for c in chosen(inputs) for _ in range(8)
        ]
        return image_set(name, images)

    inputs = make_inputs(generate, tmp_path)
    images = np.stack([render(scene, 32, "one") for c in chosen(inputs) for scene in c.scenes])
    record = measure(inputs)
    wanted = mean_pairwise_distances(images.reshape(NUM_CAPTIONS, 8, 32, 32, 3))
    assert record.value == record.ceiling == pytest.approx(wanted.mean())
    assert wanted.min() <= record.low < record.value < record.high <= wanted.max()


def test_images_of_a_generator_that_resume(tmp_path, capsys):
    experiment = small_experiment.make_experiment("", 8)
    init = functools.partial(init_generator, text_width=small_step.TEXT_WIDTH)
    ema = jax.jit(init, static_argnums=1)(jax.random.key(0), experiment.generator)
    generator = generation.ImageGenerator(experiment)
    sets = []

    def generate(prompts, name):
        sets.append(generator(ema, prompts, folder=inputs.scratch, identity="i", name=name))
        return sets[-1]

    inputs = make_inputs(generate, tmp_path)
    record = measure(inputs)
    (images,) = (np.concatenate(list(x.batches())) for x in sets)
    assert images.shape == (8 * NUM_CAPTIONS, 32, 32, 3)
    wanted = mean_pairwise_distances(images.reshape(NUM_CAPTIONS, 8, 32, 32, 3))
    assert record.value == pytest.approx(wanted.mean()) and wanted.min() > 0
    assert measure(inputs) == record  # From the images on disk.
    assert "40 of 40 images were generated before" in capsys.readouterr().out


def test_without_a_caption_that_fits_enough_scenes_there_is_no_value(tmp_path, monkeypatch):
    monkeypatch.setattr(family, "_NUM_SEARCHED", 8)
    family._choose.cache_clear()
    record = measure(make_inputs(lambda prompts, name: None, tmp_path, num_prompts=2))
    family._choose.cache_clear()
    assert (record.value, record.num_samples, record.ceiling) == (None, 0, None)
    assert format_table([record])


def test_fewer_prompts_are_fewer_captions(monkeypatch):
    monkeypatch.undo()
    assert [family.num_captions(n) for n in (2, 8, 40, 500, 1000, 30_000)] == [1, 1, 5, 62, 64, 64]


def test_where_it_is_unavailable():
    config = shapes_32.get_config()
    assert family.reason_unavailable("shapes_diversity", config, None) is None
    config.data.form = "narrative_sq32"
    assert "narrative" in family.reason_unavailable("shapes_diversity", config, None)
    config.data.name = "coco"
    assert "no logical forms" in family.reason_unavailable("shapes_diversity", config, None)
