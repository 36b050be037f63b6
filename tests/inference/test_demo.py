"""The model that comes with the package is small, and its images show what captions say."""

import numpy as np
import pytest

import xmc_jax
from xmc_jax.evaluation.families.shapes import make_reader
from xmc_jax.inference import exported
from xmc_jax.shapes import captions as shapes_captions
from xmc_jax.shapes.accuracy import count_claims, shuffle_captions, summarise

NUM_CAPTIONS = 100
MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def generated():
    """The demo's images of captions outside the training split, and the captions' meanings."""
    examples = [shapes_captions.make_example("val", index) for index in range(NUM_CAPTIONS)]
    captions = [example.captions[index % 5] for index, example in enumerate(examples)]
    images = xmc_jax.load_demo().generate([caption.text for caption in captions], seed=0)
    return images, [(caption.form,) for caption in captions]


def test_it_is_small():
    assert sum(file.stat().length for file in exported.demo_folder().iterdir()) < MAX_BYTES


def test_colours_and_backgrounds_follow_the_caption(generated):
    images, forms = generated
    scenes = make_reader("shapes_accuracy", images.shape[1]).read(images)
    accuracy = summarise(count_claims(scenes, forms))
    others = [forms[index] for index in shuffle_captions(NUM_CAPTIONS, seed=0)]
    floor = summarise(count_claims(scenes, others))
    for attribute in ("colour", "background"):
        assert accuracy[attribute].value > 0.9, accuracy
        assert floor[attribute].value < 0.5, floor


def test_images_of_one_caption_differ():
    images = xmc_jax.load_demo().generate(["a red circle"], num_images=8, seed=0)
    assert len(np.unique(images, axis=0)) == 8
