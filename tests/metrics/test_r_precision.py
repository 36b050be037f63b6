"""R-precision and the CLIP score against oracles written from their definitions."""

import math

import numpy as np
import pytest

from xmc_jax.metrics import r_precision as metric


def oracle(images, captions, candidates):
    """R-precision, one image and one caption at a time."""
    total = 0.0
    for image, row in zip(images, candidates, strict=True):
        cosines = []
        for j in row:
            caption = captions[j]
            dot = sum(float(a) * float(b) for a, b in zip(image, caption, strict=True))
            cosines.append(dot / math.hypot(*image) / math.hypot(*caption))
        better = sum(c > cosines[0] + 1e-12 for c in cosines[1:])
        equal = sum(abs(c - cosines[0]) <= 1e-12 for c in cosines[1:])
        total += 0.0 if better else 1.0 / (equal + 1)
    return total / len(images)


def test_agrees_with_the_oracle(rng):
    captions = rng.normal(size=(150, 8)).astype(np.float32)
    images = (captions + rng.normal(size=captions.shape)).astype(np.float32)
    candidates = metric.sample_candidates(range(150), range(150), seed=3)
    result = metric.r_precision(images, captions, candidates)
    assert result.value == pytest.approx(oracle(images, captions, candidates), abs=1e-12)
    assert 0.05 < result.value < 0.95  # Otherwise the test could not fail.
    assert result.chance == pytest.approx(0.01)
    assert result.low < result.value < result.high


def test_counts_captions_of_other_images_and_meanings():
    images, meanings = [0, 0, 1, 2], ["a", "b", "a", "c"]
    assert metric.count_others(images, meanings).tolist() == [1, 2, 2, 3]


def test_is_invariant_to_norms(rng):
    images, captions = rng.normal(size=(2, 30, 5))
    candidates = metric.sample_candidates(range(30), range(30), num_others=9, seed=0)
    scales = rng.uniform(0.1, 10, size=(2, 30, 1))
    one = metric.r_precision(images, captions, candidates)
    other = metric.r_precision(scales[0] * images, scales[1] * captions, candidates)
    assert one == other


@pytest.mark.parametrize("width", [3, 64, 513])
def test_a_constant_encoder_scores_chance(rng, width):
    images = rng.normal(size=(120, width)).astype(np.float32)
    captions = np.tile(rng.normal(size=width).astype(np.float32), (120, 1))
    candidates = metric.sample_candidates(range(120), range(120), seed=0)
    assert metric.r_precision(images, captions, candidates).value == pytest.approx(0.01)


def test_ties_share_the_hit():
    captions = np.eye(4)[[0, 0, 1, 0]]  # 0, 1 and 3 are one point.
    candidates = np.array([[0, 1, 2], [2, 0, 1], [0, 3, 1]])
    images = np.eye(4)[[0, 1, 1]]
    # One tie; a clear hit; two ties, at cosine 0.
    expected = (1 / 2 + 1 + 1 / 3) / 3
    assert metric.r_precision(images, captions, candidates).value == pytest.approx(expected)


def test_candidates_are_of_other_images_and_meanings(rng):
    images = rng.integers(0, 40, 200)
    meanings = [f"caption {k}" for k in rng.integers(0, 60, 200)]
    candidates = metric.sample_candidates(images.tolist(), meanings, seed=1)
    assert candidates.shape == (200, 100)
    for i, row in enumerate(candidates):
        assert row[0] == i
        assert len(set(row)) == 100  # Without replacement.
        for j in row[1:]:
            assert images[j] != images[i] and meanings[j] != meanings[i]
    again = metric.sample_candidates(images.tolist(), meanings, seed=1)
    np.testing.assert_array_equal(candidates, again)
    assert (candidates != metric.sample_candidates(images.tolist(), meanings, seed=2)).any()


def test_samples_every_valid_caption_equally_often():
    draws = [metric.sample_candidates(range(6), "aabcde", num_others=2, seed=s) for s in range(900)]
    counts = np.bincount(np.concatenate([d[0, 1:] for d in draws]), minlength=6)
    assert not counts[:2].any()  # The caption itself, and one with the same meaning.
    assert np.all(np.abs(counts[2:] - 450) < 5 * math.sqrt(900 * 0.25))


def test_refuses_too_few_captions():
    with pytest.raises(ValueError, match="caption 0 has 98 captions .* not 99"):
        metric.sample_candidates(range(100), ["same", "same", *range(98)], seed=0)


def test_batches_contain_all_captions_of_other_images_and_meanings():
    candidates = metric.batch_candidates(range(7), "abacdef", size=3)
    # Seven captions in batches of at least three: 0..3 and 4..6.
    np.testing.assert_array_equal(
        candidates,
        [
            [0, 1, 3, -1],
            [1, 0, 2, 3],
            [2, 1, 3, -1],
            [3, 0, 1, 2],
            [4, 5, 6, -1],
            [5, 4, 6, -1],
            [6, 4, 5, -1],
        ],
    )
    captions = np.eye(7)
    result = metric.r_precision(captions, captions, candidates)
    assert result.value == 1.0
    assert result.chance == pytest.approx((5 * 1 / 3 + 2 * 1 / 4) / 7)
    assert metric.batch_candidates(range(2), "ab").shape == (2, 2)


def test_padding_never_wins():
    """-1 must not index the last caption, which here is the nearest to all images."""
    captions = np.array([[1.0, 0.2], [0.2, 1.0], [1.0, 1.0]])
    images = np.array([[1.0, 0.9], [0.9, 1.0]])
    assert metric.r_precision(images, captions, np.array([[0, 1, -1], [1, 0, -1]])).value == 1.0
    assert metric.r_precision(images, captions, np.array([[0, 1, 2], [1, 0, 2]])).value == 0.0


def test_clip_scores(rng):
    images, captions = rng.normal(size=(2, 50, 6)).astype(np.float32)
    expected = []
    for a, b in zip(images.astype(float), captions.astype(float), strict=True):
        cosine = (a @ b) / np.linalg.norm(a) / np.linalg.norm(b)
        expected.append(100 * cosine if cosine > 0 else 0.0)
    scores = metric.clip_scores(images, captions)
    np.testing.assert_allclose(scores, expected, atol=1e-10)
    assert 0 in scores  # Each pair is clipped.
    np.testing.assert_allclose(metric.clip_scores(3 * images, images), 100.0)


def test_mismatched_captions_belong_to_others():
    others = metric.sample_candidates([0, 0, 1, 2], "abac", num_others=1, seed=0)[:, 1]
    assert others.shape == (4,)
    assert others[0] == 3 and others[2] in (1, 3)  # 0: not 1, its image; not 2, its meaning.


@pytest.mark.parametrize(
    "fault", [np.zeros((2, 3)), np.full((2, 3), np.nan), np.full((2, 3), np.inf), np.zeros((0, 3))]
)
def test_refuses_invalid_embeddings(fault):
    with pytest.raises(ValueError, match="embedding"):
        metric.r_precision(fault, np.eye(3), np.zeros((len(fault), 2), np.int64))
    with pytest.raises(ValueError, match="embedding"):
        metric.clip_scores(fault, fault)
