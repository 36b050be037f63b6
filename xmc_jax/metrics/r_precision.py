"""Do images and captions fit? Retrieval and cosines in a joint embedding of both.

R-precision (Xu et al. 2018, AttnGAN): is an image's own caption nearer to it than 99 other
captions? The embedding decides, and is part of the metric's name: `clip_r_precision` uses CLIP.

Departures from the code in common use, each because that code gives values that are too high: other
captions are sampled without replacement, belong to other images, and never say the same as the true
one; and a tie counts as the probability of a correct guess, so that an encoder that maps all
captions to one point scores at chance instead of 100 %. NumPy alone.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from xmc_jax.metrics.intervals import wilson_interval

NUM_OTHERS = 99
_CHUNK = 64  # Images whose candidates are compared at a time.
_NO_CAPTION = -1  # Padding of the candidates.


class RPrecision(NamedTuple):
    """Result of a retrieval, 0..1.

    Attributes:
      value: Fraction of images whose own caption is the nearest.
      low, high: Wilson's 95 % interval.
      chance: Expected value of a random choice.
    """

    value: float
    low: float
    high: float
    chance: float


def sample_candidates(
    image_keys: Sequence[Hashable],
    meanings: Sequence[Hashable],
    *,
    num_others: int = NUM_OTHERS,
    seed: int,
) -> Int[np.ndarray, "n k"]:
    """Samples the captions (indices) that each image is compared with; the first is its own.

    Args:
      image_keys: The image that each caption belongs to.
      meanings: What each caption says; captions that say the same never compete.
      num_others: Number of captions besides the true one.
      seed: Seed of the sampling.

    Raises:
      ValueError: An image has too few captions of other images and meanings.
    """
    images, meanings = _numbered(image_keys), _numbered(meanings)
    rng, candidates = np.random.default_rng(seed), []
    for i in range(len(images)):
        others = np.flatnonzero((images != images[i]) & (meanings != meanings[i]))
        if len(others) < num_others:
            raise ValueError(
                f"caption {i} has {len(others)} captions of other images and meanings to compete "
                f"with, not {num_others}"
            )
        candidates.append([i, *rng.choice(others, num_others, replace=False)])
    return np.asarray(candidates, np.int64).reshape(len(images), 1 + num_others)


def count_others(
    image_keys: Sequence[Hashable], meanings: Sequence[Hashable]
) -> Int[np.ndarray, " n"]:
    """Number of captions with another image and meaning, for each; see `sample_candidates`."""
    pairs = list(zip(image_keys, meanings, strict=True))
    same_image, same_meaning, same_both = (
        np.bincount(numbers)[numbers] for numbers in map(_numbered, (image_keys, meanings, pairs))
    )
    return len(pairs) - same_image - same_meaning + same_both


def batch_candidates(
    image_keys: Sequence[Hashable], meanings: Sequence[Hashable], *, size: int = 1 + NUM_OTHERS
) -> Int[np.ndarray, "n k"]:
    """All captions of an image's batch, as in contrastive training; the first one is its own.

    Captions of the same image or meaning are left out, and rows are padded with -1. Keys and
    meanings as in `sample_candidates`.

    Args:
      size: Smallest size of a batch, unless there are fewer captions; sizes differ by at most one.
    """
    images, meanings = _numbered(image_keys), _numbered(meanings)
    count = len(images)
    batches = np.array_split(np.arange(count), max(1, count // size))
    candidates = np.full((count, max(map(len, batches))), _NO_CAPTION, np.int64)
    for batch in batches:
        for i in batch:
            others = batch[(images[batch] != images[i]) & (meanings[batch] != meanings[i])]
            candidates[i, : 1 + len(others)] = [i, *others]
    return candidates


def r_precision(
    images: Float[np.ndarray, "n d"],
    captions: Float[np.ndarray, "m d"],
    candidates: Int[np.ndarray, "n k"],
) -> RPrecision:
    """Fraction of images whose own caption has the largest cosine of its candidates.

    If ``t`` others have the same cosine as the true caption, an image counts ``1 / (t + 1)``.

    Args:
      images: Embeddings, of any norm.
      captions: Likewise.
      candidates: From `sample_candidates` or `batch_candidates`.

    Raises:
      ValueError: There is no image, or an embedding is zero or not finite.
    """
    images, captions = _unit(images), _unit(captions)
    hits = []
    for start in range(0, len(images), _CHUNK):
        part = candidates[start : start + _CHUNK]
        # Not a matrix product, in which equal captions can have different cosines.
        cosines = (images[start : start + _CHUNK, None] * captions[part]).sum(axis=-1)
        cosines = np.where(part == _NO_CAPTION, -np.inf, cosines)
        beaten = (cosines > cosines[:, :1]).any(axis=1)
        ties = (cosines == cosines[:, :1]).sum(axis=1)  # Including the true one.
        hits.append(np.where(beaten, 0.0, 1.0 / ties))
    value = float(np.mean(np.concatenate(hits)))
    chance = float(np.mean(1.0 / (candidates != _NO_CAPTION).sum(axis=1)))
    return RPrecision(value, *wilson_interval(value, len(images)), chance)


def clip_scores(
    images: Float[np.ndarray, "n d"], captions: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """``100 max(cos, 0)`` of each image and its caption; their mean is the CLIP score.

    Hessel et al. 2021 with the factor 100 instead of 2.5, and without the words that they put
    before the caption. Each pair is clipped, not the mean. Raises errors as `r_precision`.
    """
    cosines = (_unit(images) * _unit(captions)).sum(axis=-1)
    return 100.0 * np.maximum(cosines, 0.0)


def _numbered(keys: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """Replaces keys by integers; equal keys get equal integers."""
    numbers = {}
    return np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _unit(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    embeddings = np.asarray(embeddings, np.float64)
    if not len(embeddings):
        raise ValueError("there are no embeddings")
    norms = np.sqrt((embeddings * embeddings).sum(axis=-1, keepdims=True))
    if not np.all(np.isfinite(norms)) or not np.all(norms > 0):
        raise ValueError("an embedding is zero, infinite or not a number")
    return embeddings / norms
