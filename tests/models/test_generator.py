"""generator.py: sizes, padding, modulation, and the algebra that makes it fast."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.attention import attend_words
from xmc_jax.models import generator as generator_module
from xmc_jax.models.generator import Generator
from xmc_jax.models.layers import Condition, ConditionalBatchNorm
from xmc_jax.models.ops.resampling import upsample


def init(generator, d=8, t=5, b=2):
    keys = jax.random.split(jax.random.key(0), 4)
    z = jax.random.normal(keys[0], (b, generator.z_dim))
    words = jax.random.normal(keys[1], (b, t, d))
    mask = jnp.asarray(np.arange(t) < np.array([[t], [3]])[:b])
    sentence = jax.random.normal(keys[2], (b, d))
    inputs = (z, words, sentence, mask)
    return run(generator.init, {"params": keys[3]}, *inputs), inputs


def run(method, *args, train=False, **options):
    """One program instead of hundreds of small ones."""
    return jax.jit(functools.partial(method, train=train, **options))(*args)


def num_parameters(resolution):
    generator = Generator(resolution=resolution, width=96, z_dim=128)
    shapes = jax.eval_shape(lambda: init(generator, d=768, t=17)[0])
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))


def test_parameter_counts_of_the_released_model():
    assert num_parameters(128) == 78_507_779  # 78.5 M
    assert num_parameters(256) == 92_865_539  # 92.9 M


@pytest.mark.parametrize(("modulation", "resolution"), [("attentional", 64), ("self", 32)])
def test_images_are_in_range(resolution, modulation):
    generator = Generator(resolution=resolution, width=2, z_dim=4, modulation=modulation)
    variables, inputs = init(generator)
    images, moved = run(generator.apply, variables, *inputs, train=True, mutable=["batch_stats"])
    assert images.shape == (2, resolution, resolution, 3) and images.dtype == jnp.float32
    assert np.all(np.abs(images) <= 1)
    changed = jax.tree.map(
        lambda x, y: np.any(np.asarray(x) != np.asarray(y)),
        variables["batch_stats"],
        moved["batch_stats"],
    )
    assert all(jax.tree.leaves(changed))


def test_self_modulation_ignores_the_words():
    generator = Generator(resolution=32, width=2, z_dim=4, modulation="self")
    variables, (z, words, sentence, mask) = init(generator)
    one = run(generator.apply, variables, z, words, sentence, mask)
    two = run(generator.apply, variables, z, -words, sentence, mask)
    np.testing.assert_array_equal(one, two)


def test_every_input_reaches_the_image():
    generator = Generator(resolution=32, width=2, z_dim=4)
    variables, (z, words, sentence, mask) = init(generator)
    base = run(generator.apply, variables, z, words, sentence, mask)
    for changed in ((-z, words, sentence), (z, -words, sentence), (z, words, -sentence)):
        other = run(generator.apply, variables, *changed, mask)
        assert np.max(np.abs(other - base)) > 1e-4


@pytest.mark.parametrize("first_layer", ["noise", "noise_and_sentence"])
def test_the_first_layer_sees_the_noise_alone_or_with_the_sentence(first_layer):
    generator = Generator(resolution=32, width=2, z_dim=4, first_layer=first_layer)
    variables, (z, words, sentence, mask) = init(generator)
    apply = functools.partial(generator.apply, capture_intermediates=True, mutable="intermediates")
    _, seen = run(apply, variables, z, words, sentence, mask)
    (first,) = seen["intermediates"]["project_noise"]["__call__"]

    def dense(name, x):
        layer = variables["params"][name]
        return x @ layer["kernel"] + layer["bias"][None]

    if first_layer == "noise_and_sentence":
        z = jnp.concatenate([dense("project_sentence", sentence), z], axis=-1)
    np.testing.assert_allclose(first, dense("project_noise", z), atol=1e-5)


def test_words_beyond_the_mask_have_no_effect():
    generator = Generator(resolution=32, width=2, z_dim=4)
    variables, (z, words, sentence, mask) = init(generator)
    poisoned = jnp.where(mask[..., None], words, jnp.nan)

    def images_and_grads(words):
        def loss(params):
            changed = {**variables, "params": params}
            out = generator.apply(changed, z, words, sentence, mask, train=False)
            return jnp.sum(out**2)

        return jax.jit(jax.value_and_grad(loss))(variables["params"])

    clean, dirty = (jax.tree.leaves(images_and_grads(x)) for x in (words, poisoned))
    for a, b in zip(clean, dirty, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_array_equal(a, b)


def test_modulation_equals_the_plain_formulation(rng):
    """1x1 convolutions of concat(context, vector) at full resolution, as published."""
    b, side, t, d, k, c = 2, 4, 5, 6, 3, 7
    x = jnp.float32(rng.normal(size=(b, 2 * side, 2 * side, c)))
    vector = jnp.float32(rng.normal(size=(b, k)))
    weights = jax.nn.softmax(jnp.float32(rng.normal(size=(b, side, side, t))))
    words = jnp.float32(rng.normal(size=(b, t, d)))
    norm = ConditionalBatchNorm()
    condition = Condition(vector, weights, words)
    variables = norm.init(jax.random.key(0), x, condition, train=True)
    got, _ = norm.apply(variables, x, condition, train=True, mutable=["batch_stats"])

    context = jnp.einsum("bhwt,btd->bhwd", weights, words)
    broadcast = jnp.broadcast_to(vector[:, None, None, :], (b, side, side, k))
    full = upsample(jnp.concatenate([context, broadcast], -1))
    gamma, beta = (
        full @ variables["params"][name]["kernel"]
        + variables["params"][name]["bias"].reshape(1, 1, 1, c)
        for name in ("gamma", "beta")
    )
    mean, var = (f(x, axis=(0, 1, 2), keepdims=True) for f in (jnp.mean, jnp.var))
    want = (x - mean) / jnp.sqrt(var + 1e-5) * (1 + gamma) + beta
    np.testing.assert_allclose(got, jax.nn.relu(want), atol=2e-5)


def test_the_attention_of_the_generator_is_that_of_the_paper(monkeypatch):
    """The product of the factors that the generator keeps is `attend_words`."""
    seen = {}
    real = generator_module.word_attention

    def spy(regions, words, mask):
        seen["context"] = attend_words(regions, words, mask, gamma=15.0)
        seen["factors"] = real(regions, words, mask)
        return seen["factors"]

    generator = Generator(resolution=32, width=2, z_dim=4)
    variables, inputs = init(generator)
    monkeypatch.setattr(generator_module, "word_attention", spy)
    generator.apply(variables, *inputs, train=False)
    weights, keys = seen["factors"]
    assert weights.shape[1] == 16 * 16
    np.testing.assert_allclose(
        jnp.einsum("brt,btd->brd", weights, keys), seen["context"], atol=1e-6
    )


@pytest.mark.parametrize("resolution", [8, 48])
def test_unknown_resolution_is_refused(resolution):
    with pytest.raises(ValueError, match=f"resolution={resolution} is not one of 32, 64"):
        Generator(resolution=resolution, width=2, z_dim=4)


def test_unknown_modulation_is_refused():
    with pytest.raises(ValueError, match="modulation='words' is not one of attentional, self"):
        Generator(resolution=32, width=2, z_dim=4, modulation="words")
