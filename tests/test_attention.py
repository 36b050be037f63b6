"""attention.py against its equation, and what padding and zero vectors do to it."""

import jax
import jax.numpy as jnp
import numpy as np

from xmc_jax.attention import attend_words, inverse_norm, l2_normalize, word_attention


def oracle(regions, words, mask, gamma):
    """The equation, one region at a time, in float64."""
    context = np.zeros(regions.shape)
    for b in range(len(regions)):
        valid = [w / np.linalg.norm(w) for w, m in zip(words[b], mask[b], strict=True) if m]
        for r, region in enumerate(regions[b]):
            logits = gamma * np.array([w @ region / np.linalg.norm(region) for w in valid])
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            context[b, r] = sum(a * w for a, w in zip(weights, valid, strict=True))
    return context


def example(rng, b=3, r=5, t=6, d=7):
    regions, words = rng.normal(size=(b, r, d)), rng.normal(size=(b, t, d))
    mask = np.arange(t) < np.array([[t], [4], [2]])[:b]
    return regions, words, mask


def as_float32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def test_equals_the_equation(rng):
    regions, words, mask = example(rng)
    got = attend_words(*as_float32(regions, words), jnp.asarray(mask), gamma=3.0)
    np.testing.assert_allclose(got, oracle(regions, words, mask, 3.0), atol=2e-6)


def test_default_sharpness_is_fifteen(rng):
    regions, words, mask = example(rng)
    got = attend_words(*as_float32(regions, words), jnp.asarray(mask))
    np.testing.assert_allclose(got, oracle(regions, words, mask, 15.0), atol=1e-5)


def test_weights_sum_to_one_over_valid_words_only(rng):
    regions, words, mask = example(rng)
    weights, keys = word_attention(*as_float32(regions, words), jnp.asarray(mask))
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    assert np.all(np.asarray(weights).swapaxes(1, 2)[~mask] == 0)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=-1), mask.astype(float), atol=1e-6)


def test_padding_may_hold_anything(rng):
    regions, words, mask = example(rng)
    poisoned = np.where(mask[..., None], words, np.nan)
    args = as_float32(regions, words)

    def total(r, w):
        return jnp.sum(jnp.sin(attend_words(r, w, jnp.asarray(mask))))

    clean = jax.value_and_grad(total, argnums=(0, 1))(*args)
    dirty = jax.value_and_grad(total, argnums=(0, 1))(args[0], *as_float32(poisoned))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_array_equal(a, b)


def test_more_padding_changes_nothing(rng):
    regions, words, mask = example(rng)
    short = attend_words(*as_float32(regions, words), jnp.asarray(mask))
    words = np.pad(words, ((0, 0), (0, 9), (0, 0)), constant_values=7.0)
    mask = np.pad(mask, ((0, 0), (0, 9)))
    longer = attend_words(*as_float32(regions, words), jnp.asarray(mask))
    np.testing.assert_allclose(short, longer, atol=1e-6)


def test_a_caption_without_words_gives_zeros_and_finite_gradients(rng):
    regions, words, _ = example(rng)
    regions, words = as_float32(regions, words)
    mask = jnp.zeros(words.shape[:2], bool)
    assert np.all(np.asarray(attend_words(regions, words, mask)) == 0)
    grads = jax.grad(lambda r, w: attend_words(r, w, mask).sum(), argnums=(0, 1))(regions, words)
    assert all(np.all(np.isfinite(g)) for g in grads)


def test_zero_vectors_stay_zero_and_get_no_gradient():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    grad = jax.grad(lambda x: l2_normalize(x)[:, 0].sum())(x)
    np.testing.assert_allclose(grad, [[0, 0], [(1 - 0.36) / 5, -0.48 / 5]], atol=1e-7)
    assert jax.grad(inverse_norm)(0.0) == 0.0
