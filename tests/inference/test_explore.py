"""explore.py and figures.py on a small run: images are equal to those of `generate`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

import xmc_jax
from tests import small_run
from xmc_jax import images
from xmc_jax.errors import UserError
from xmc_jax.inference import explore, figures

CAPTION, OTHER, LONGER = "red circle", "circle red", "red red circles circle"


@pytest.fixture(scope="module")
def workdir(folder):
    return small_run.make(folder, whole=True)


@pytest.fixture(scope="module")
def model(workdir):
    return xmc_jax.load(workdir)


def assert_same(a, b):
    """Rounding of sums may move a pixel by one level."""
    assert a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_attention_maps(model):
    found = explore.attention_maps(model, "red circles", seed=4)
    assert_same(found.image, model.generate(["red circles"], seed=4)[0])
    assert found.pieces == ["[CLS]", "red", "circle", "##s", "[SEP]"]
    assert found.maps.shape == (5, 16, 16)
    np.testing.assert_allclose(found.maps.sum(axis=0), 1, atol=1e-5)
    assert found.maps.std(axis=(1, 2)).max() > 1e-4  # Regions look at different words.


def test_a_generator_without_attention_is_refused(model):
    config = model.experiment.config.copy_and_resolve_references()
    config.model.modulation = "self"
    other = dataclasses.replace(
        model, experiment=dataclasses.replace(model.experiment, config=config)
    )
    with pytest.raises(UserError, match="this generator has no attention"):
        explore.attention_maps(other, CAPTION)


def test_interpolate_noise(model):
    between = explore.interpolate_noise(model, CAPTION, seeds=(2, 3), num_images=4)
    for place, seed in ((0, 2), (-1, 3)):
        assert_same(between[place], model.generate([CAPTION], seed=seed)[0])
    assert len({image.tobytes() for image in between}) == 4


def test_noise_moves_along_an_arc():
    a, b = jnp.array([2.0, 0.0, 0.0]), jnp.array([0.0, 2.0, 0.0])
    for share in (0.0, 0.25, 0.5, 1.0):
        angle = share * np.pi / 2
        want = [2 * np.cos(angle), 2 * np.sin(angle), 0]
        np.testing.assert_allclose(explore._arc(a, b, share), want, atol=1e-6)
    np.testing.assert_allclose(explore._arc(a, a, 0.3), a, atol=1e-6)


def test_interpolate_captions(model):
    between = explore.interpolate_captions(model, (CAPTION, OTHER), seed=6, num_images=4)
    for place, caption in ((0, CAPTION), (-1, OTHER)):
        assert_same(between[place], model.generate([caption], seed=6)[0])
    assert len({image.tobytes() for image in between}) == 4
    # Captions of different lengths: the image of the longer one is exact.
    between = explore.interpolate_captions(model, (CAPTION, LONGER), seed=6, num_images=4)
    assert_same(between[-1], model.generate([LONGER], seed=6)[0])
    assert np.any(between[0] != between[-1])


def test_word_similarities(workdir, model):
    discriminator = explore.load_discriminator(workdir)
    image = model.generate([CAPTION])[0]
    found = discriminator.word_similarities(image, "red circles")
    assert found.pieces == ["[CLS]", "red", "circle", "##s", "[SEP]"]
    assert found.maps.shape == (5, 8, 8)

    experiment = model.experiment
    tokens = jnp.asarray(experiment.tokenizer(["red circles"]))
    words, sentence, _ = jax.jit(experiment.text_encoder.apply)(experiment.frozen.text, tokens)
    pixels = images.from_uint8(jnp.asarray(image)[None])
    network, variables = experiment.discriminator, discriminator.variables
    output = explore._discriminate(network, variables, pixels, sentence)
    regions, words = np.asarray(output.regions[0]), np.asarray(words[0])
    for index, place in ((1, (0, 0)), (4, (3, 5))):
        region, word = regions[place[0] * 8 + place[1]], words[index]
        cosine = region @ word / np.linalg.norm(region) / np.linalg.norm(word)
        assert abs(found.maps[index][place] - cosine) < 1e-5


def test_nearest_images():
    others = np.stack([np.full((2, 2, 3), level, np.uint8) for level in (0, 100, 200, 255)])
    images = np.stack([np.full((2, 2, 3), level, np.uint8) for level in (90, 250)])
    nearest, distances = explore.nearest_images(images, others, k=2)
    np.testing.assert_array_equal(nearest, [[1, 0], [3, 2]])
    np.testing.assert_allclose(distances, [[10, 90], [5, 50]])


def test_figures(model):
    found = explore.attention_maps(model, CAPTION)
    figures.show_word_maps(*found, num_columns=3)
    shown = [ax for ax in plt.gcf().axes if ax.images]
    assert [ax.get_title() for ax in shown] == ["", *found.pieces]
    np.testing.assert_array_equal(shown[1].images[1].get_array(), found.maps[0])
    figures.show_images(model.generate([CAPTION, OTHER, LONGER]), [CAPTION, OTHER, LONGER])
    assert [ax.get_title().replace("\n", " ") for ax in plt.gcf().axes][:2] == [CAPTION, OTHER]
    figures.show_images(model.generate([CAPTION] * 3), num_columns=2)
    assert sum(bool(ax.images) for ax in plt.gcf().axes) == 3
    plt.close("all")
