"""losses.py against float64 oracles written from the equations, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.derivatives import assert_same_second_derivatives
from xmc_jax import losses

# float32 has 24 bits; the word term multiplies cosines by 50 before the softmax.
RTOL = 2e-5


def unit(x):
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def cross_entropy_oracle(scores):
    loss, hits = 0.0, 0.0
    for matrix in (scores, scores.T):
        for i, row in enumerate(matrix):
            loss += (np.log(np.sum(np.exp(row - row.max()))) + row.max() - row[i]) / len(scores)
            hits += (np.argmax(row) == i) / (2 * len(scores))
    return loss, hits


def info_nce_oracle(a, b, temperature):
    return cross_entropy_oracle(unit(a) @ unit(b).T / temperature)


def word_scores_oracle(regions, words, mask, gamma_region=5.0, gamma_word=5.0):
    """One image, one caption, one word at a time."""
    scores = np.zeros((len(regions), len(words)))
    for i, image in enumerate(unit(regions)):
        for j in range(len(words)):
            matches = []
            for word in unit(words[j][mask[j]]):
                similarity = image @ word
                weights = np.exp(gamma_region * similarity)
                context = (weights / weights.sum()) @ image
                matches.append(word @ unit(context))
            scores[i, j] = np.log(np.sum(np.exp(gamma_word * np.array(matches)))) / gamma_word
    return scores


def word_nce_oracle(regions, words, mask, gamma_match=50.0):
    return cross_entropy_oracle(gamma_match * word_scores_oracle(regions, words, mask))


def example(rng, b=4, r=6, t=5, d=8):
    """Images and captions that are weakly related, so that no softmax saturates."""
    words = rng.normal(size=(b, t, d))
    regions = rng.normal(size=(b, r, d)) + 0.5 * words.mean(1, keepdims=True)
    mask = np.arange(t) < rng.integers(1, t + 1, size=(b, 1))
    return regions, words, mask


def as_jax(regions, words, mask):
    return (jnp.asarray(regions, jnp.float32), jnp.asarray(words, jnp.float32), jnp.asarray(mask))


def test_hinge_losses():
    real, fake = jnp.array([2.0, 0.5, -1.0]), jnp.array([-2.0, -0.5, 1.0])
    assert losses.hinge_d_loss(real, fake) == pytest.approx((0 + 0.5 + 2 + 0 + 0.5 + 2) / 3)
    assert losses.hinge_g_loss(fake) == pytest.approx(0.5)


def test_distances_and_the_nearest_image(rng):
    images = jnp.zeros((3, 2, 2, 3))
    others = images + jnp.float32([0.0, -0.1, 0.5])[:, None, None, None]
    np.testing.assert_allclose(losses.mean_distances(images, others), [0.0, 0.1, 0.5], rtol=RTOL)

    images, candidates = rng.normal(size=(4, 2, 3, 3)), rng.normal(size=(4, 5, 2, 3, 3))
    distances = [[np.sum((x - images[i]) ** 2) for x in candidates[i]] for i in range(4)]
    want = np.argmin(distances, axis=1)
    got = losses.nearest(jnp.float32(candidates), jnp.float32(images))
    np.testing.assert_array_equal(got, want)
    assert len(set(want)) > 1


@pytest.mark.parametrize("b", [1, 2, 7])
def test_info_nce_equals_the_equation(rng, b):
    x, y = rng.normal(size=(2, b, 5))
    y += x
    loss, accuracy = losses.info_nce(jnp.float32(x), jnp.float32(y), temperature=0.3)
    want_loss, want_accuracy = info_nce_oracle(x, y, 0.3)
    np.testing.assert_allclose(loss, want_loss, rtol=RTOL, atol=1e-6)
    assert accuracy == pytest.approx(want_accuracy)


def test_info_nce_default_temperature(rng):
    x, y = rng.normal(size=(2, 6, 5))
    loss, _ = losses.info_nce(jnp.float32(x), jnp.float32(y))
    np.testing.assert_allclose(loss, info_nce_oracle(x, y, 0.1)[0], rtol=RTOL)


def test_info_nce_of_orthonormal_pairs_has_a_closed_form():
    b, temperature = 5, 0.5
    loss, accuracy = losses.info_nce(jnp.eye(b), 3.0 * jnp.eye(b), temperature=temperature)
    np.testing.assert_allclose(loss, 2 * np.log(1 + (b - 1) * np.exp(-1 / temperature)), rtol=1e-5)
    assert accuracy == 1.0


def test_info_nce_of_equal_vectors_is_chance():
    loss, _ = losses.info_nce(jnp.ones((8, 3)), jnp.ones((8, 3)))
    np.testing.assert_allclose(loss, 2 * np.log(8), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 6, 5, 8), (1, 3, 2, 4), (3, 1, 1, 5), (2, 9, 17, 6)])
def test_word_nce_equals_the_equation(rng, shape):
    regions, words, mask = example(rng, *shape)
    loss, accuracy = losses.word_nce(*as_jax(regions, words, mask))
    want_loss, want_accuracy = word_nce_oracle(regions, words, mask)
    np.testing.assert_allclose(loss, want_loss, rtol=RTOL, atol=2e-5)
    assert accuracy == pytest.approx(want_accuracy)


def test_word_nce_with_repeated_features_and_zero_words(rng):
    regions, words, mask = example(rng)
    regions[1], regions[2, 3] = regions[0], regions[2, 0]
    words[1], words[2, 0], mask[2, 0] = words[0], 0.0, True
    mask[1] = mask[0]
    value = losses.word_nce(*as_jax(regions, words, mask))[0]
    np.testing.assert_allclose(value, word_nce_oracle(regions, words, mask)[0], rtol=RTOL)


def test_word_scores_stay_exact_when_the_attention_is_sharp(rng):
    regions, words, mask = example(rng)
    got = losses.word_scores(*as_jax(regions, words, mask), gamma_region=200.0, gamma_word=40.0)
    want = word_scores_oracle(regions, words, mask, 200.0, 40.0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gamma_region", [5.0, 40.0, 200.0])
def test_the_gradient_is_that_of_the_equation_however_sharp(rng, gamma_region):
    """At 200 most weights are zero, although the gradient uses their logarithms."""
    regions, words, mask = as_jax(*example(rng))
    cotangent = jnp.float32(rng.normal(size=(len(regions), len(words))))

    def plain(regions, words):
        features, words = losses.l2_normalize(regions), losses.normalized_words(words, mask)
        similarity = jnp.einsum("brd,ntd->bntr", features, words)
        weights = jax.nn.softmax(gamma_region * similarity)
        contexts = losses.l2_normalize(jnp.einsum("bntr,brd->bntd", weights, features))
        match = jnp.einsum("bntd,ntd->bnt", contexts, words)
        return jax.nn.logsumexp(5.0 * match, axis=-1, where=mask) / 5.0

    def ours(regions, words):
        return losses.word_scores(regions, words, mask, gamma_region=gamma_region)

    want, got = (
        jax.grad(lambda *x: jnp.vdot(cotangent, scores(*x)), argnums=(0, 1))(regions, words)  # noqa: B023
        for scores in (plain, ours)
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()))


def test_word_scores_of_one_image_do_not_depend_on_the_others(rng):
    regions, words, mask = as_jax(*example(rng, b=8))
    whole = losses.word_scores(regions, words, mask)
    part = losses.word_scores(regions[3:5], words, mask)
    np.testing.assert_allclose(part, whole[3:5], rtol=1e-6)


def test_recomputing_weights_changes_no_number(rng, monkeypatch):
    regions, words, mask = as_jax(*example(rng, b=8))
    num_similarities = regions.shape[0] * regions.shape[1] * mask.size

    def value_and_grad():
        value, pull_back = jax.vjp(lambda r, w: losses.word_nce(r, w, mask)[0], regions, words)
        stores = any(x.size == num_similarities for x in jax.tree.leaves(pull_back))
        return stores, (value, pull_back(jnp.ones(())))

    stores, stored = value_and_grad()
    monkeypatch.setattr(losses, "_MAX_STORED_WEIGHTS", 8)
    still_stores, recomputed = value_and_grad()
    assert (stores, still_stores) == (True, False)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), stored, recomputed
    )


@pytest.mark.parametrize("max_stored", [0, losses._MAX_STORED_WEIGHTS])
def test_second_derivatives_of_the_match_are_those_of_the_equation(rng, monkeypatch, max_stored):
    monkeypatch.setattr(losses, "_MAX_STORED_WEIGHTS", max_stored)

    def written_out(features, words):
        similarity = jnp.einsum("brd,md->brm", features, words)
        contexts = jnp.einsum("brm,brd->bmd", jax.nn.softmax(5.0 * similarity, axis=1), features)
        dot = jnp.einsum("bmd,md->bm", contexts, words)
        return dot / jnp.linalg.norm(contexts, axis=-1)

    inputs = [jnp.float32(unit(rng.normal(size=shape))) for shape in ((3, 5, 6), (7, 6))]
    assert_same_second_derivatives(
        lambda *inputs: losses._match_words(*inputs, 5.0), written_out, inputs
    )


@pytest.mark.parametrize("chunk_size", [1, 3, 6])
def test_accelerators_take_several_images_per_iteration(rng, monkeypatch, chunk_size):
    regions, words, mask = as_jax(*example(rng, b=6))

    def value_and_grad():
        return jax.value_and_grad(lambda r, w: losses.word_nce(r, w, mask)[0], (0, 1))(
            regions, words
        )

    want = value_and_grad()
    weights_per_image = regions.shape[1] * mask.size
    monkeypatch.setattr(losses, "_WEIGHTS_PER_ITERATION", chunk_size * weights_per_image)
    programs = []

    def as_on_an_accelerator(*args, cpu, default):
        programs.append(jax.make_jaxpr(default)(*args).jaxpr.eqns)
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_an_accelerator)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), want, value_and_grad()
    )
    lengths = {e.params["length"] for eqns in programs for e in eqns if e.primitive.name == "scan"}
    assert lengths == {6 // chunk_size}


def test_padding_may_hold_anything(rng):
    regions, words, mask = example(rng)
    poisoned = np.where(mask[..., None], words, np.nan)

    def loss_and_grads(words):
        r, w, m = as_jax(regions, words, mask)
        return jax.value_and_grad(lambda r, w: losses.word_nce(r, w, m)[0], argnums=(0, 1))(r, w)

    clean, dirty = (jax.tree.leaves(loss_and_grads(x)) for x in (words, poisoned))
    for a, b in zip(clean, dirty, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_array_equal(a, b)


def test_padding_of_any_length_changes_nothing(rng):
    regions, words, mask = example(rng)
    short = losses.word_nce(*as_jax(regions, words, mask))
    words = np.pad(words, ((0, 0), (0, 11), (0, 0)), constant_values=3.0)
    mask = np.pad(mask, ((0, 0), (0, 11)))
    longer = losses.word_nce(*as_jax(regions, words, mask))
    np.testing.assert_allclose(short, longer, rtol=1e-6)


def test_a_caption_without_words_scores_zero_and_has_finite_gradients(rng):
    regions, words, mask = example(rng)
    mask[1] = False
    r, w, m = as_jax(regions, words, mask)
    assert np.all(np.asarray(losses.word_scores(r, w, m))[:, 1] == 0)
    value, grad = jax.value_and_grad(lambda r: losses.word_nce(r, w, m)[0])(r)
    assert np.isfinite(value) and np.all(np.isfinite(grad))


@pytest.mark.parametrize("name", ["info_nce", "word_nce"])
def test_permuting_the_batch_changes_nothing(rng, name):
    regions, words, mask = as_jax(*example(rng, b=6))
    arrays = (regions[:, 0], words[:, 0]) if name == "info_nce" else (regions, words, mask)
    loss = getattr(losses, name)
    order = rng.permutation(6)
    permuted = loss(*(x[order] for x in arrays))
    np.testing.assert_allclose(loss(*arrays), permuted, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_of_the_vectors_does_not_matter(rng, scale):
    r, w, m = as_jax(*example(rng))
    np.testing.assert_allclose(
        losses.word_nce(r, w, m)[0], losses.word_nce(scale * r, w, m)[0], rtol=1e-4
    )


def directional_derivative(function, x, direction, step):
    """Central difference in float64."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def test_gradient_of_info_nce_by_finite_differences(rng):
    x, y, direction = rng.normal(size=(3, 5, 6))
    grad = jax.grad(lambda x: losses.info_nce(x, jnp.float32(y))[0])(jnp.float32(x))
    want = directional_derivative(lambda x: info_nce_oracle(x, y, 0.1)[0], x, direction, 1e-5)
    np.testing.assert_allclose(np.sum(np.asarray(grad) * direction), want, rtol=1e-4)


@pytest.mark.parametrize("argument", [0, 1])
def test_gradient_of_word_nce_by_finite_differences(rng, argument):
    arrays = list(example(rng))
    direction = rng.normal(size=arrays[argument].shape)
    if argument == 1:
        direction *= arrays[2][..., None]
    grad = jax.grad(lambda *a: losses.word_nce(*a)[0], argnums=argument)(*as_jax(*arrays))

    def function(x):
        return word_nce_oracle(*[x if i == argument else a for i, a in enumerate(arrays)])[0]

    want = directional_derivative(function, arrays[argument], direction, 1e-5)
    np.testing.assert_allclose(np.sum(np.asarray(grad) * direction), want, rtol=1e-3)


def test_groups_are_separate_batches(rng):
    x, y = (jnp.float32(v) for v in rng.normal(size=(2, 6, 4)))
    loss, accuracy = losses.in_groups(losses.info_nce, 3)(x, y)
    halves = [losses.info_nce(x[i : i + 3], y[i : i + 3]) for i in (0, 3)]
    np.testing.assert_allclose(loss, np.mean([h[0] for h in halves]), rtol=1e-6)
    np.testing.assert_allclose(accuracy, np.mean([h[1] for h in halves]), rtol=1e-6)


def test_low_precision_inputs_are_computed_in_float32(rng):
    r, w, m = as_jax(*example(rng))
    r, w = r.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    want = losses.word_nce(r.astype(jnp.float32), w.astype(jnp.float32), m)
    got = losses.word_nce(r, w, m)
    assert got[0].dtype == jnp.float32
    np.testing.assert_array_equal(got, want)
