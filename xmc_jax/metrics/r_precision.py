"""Do pictures and captions fit? Retrieval and cosines in a joint embedding of both.

R-precision (Xu et al. 2018, AttnGAN): among a picture's own caption and 99 others, is its own the
nearest? The embedding is the judge, and part of the metric's name: `clip_r_precision` is CLIP's.

Departures from the code in common use, each because that code flatters: other captions are drawn
without replacement, from other images, and never say the same as the true one; and a tie counts
as the chance of guessing right, where an encoder that maps all captions to one point would score
100 %. NumPy alone.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from xmc_jax.metrics.intervals import wilson_interval

NUM_OTHERS = 99
_CHUNK = 64  # Images whose candidates are looked up at a time.
_NOBODY = -1  # In candidates: no caption.


class RPrecision(NamedTuple):
    """The outcome of a retrieval.

    Attributes:
      value: Share of images that found their caption, 0..1.
      low: Lower end of Wilson's 95 % interval of the share.
      high: Its upper end.
      chance: What guessing would score.
    """

    value: float
    low: float
    high: float
    chance: float


def draw_candidates(
    image_keys: Sequence[Hashable],
    meanings: Sequence[Hashable],
    *,
    num_others: int = NUM_OTHERS,
    seed: int,
) -> Int[np.ndarray, "n k"]:
    """Draws the captions that each image has to choose from; the first is its own.

    Args:
      image_keys: Which image each caption belongs to.
      meanings: What each caption says; two that say the same never compete.
      num_others: How many captions besides the true one.
      seed: Of the draw.

    Returns:
      Indices of captions.

    Raises:
      ValueError: an image has not that many captions to compete with.
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
    """How many captions of other images and meanings there are for each; see `draw_candidates`."""
    pairs = list(zip(image_keys, meanings, strict=True))
    same_image, same_meaning, same_both = (
        np.bincount(numbers)[numbers] for numbers in map(_numbered, (image_keys, meanings, pairs))
    )
    return len(pairs) - same_image - same_meaning + same_both


def batch_candidates(
    image_keys: Sequence[Hashable], meanings: Sequence[Hashable], *, size: int = 1 + NUM_OTHERS
) -> Int[np.ndarray, "n k"]:
    """All captions of an image's batch, as contrastive training sees them; the first is its own.

    Args:
      image_keys: See `draw_candidates`.
      meanings: See `draw_candidates`.
      size: The smallest batch; all are as even as can be, and fewer captions make one batch.

    Returns:
      Indices of captions; -1 in place of those that belong to the same image or say the same.
    """
    images, meanings = _numbered(image_keys), _numbered(meanings)
    count = len(images)
    batches = np.array_split(np.arange(count), max(1, count // size))
    candidates = np.full((count, max(map(len, batches))), _NOBODY, np.int64)
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
    """Share of images whose own caption is the nearest of its candidates, by cosine.

    Where ``t`` others are as near as the true caption, an image counts ``1 / (t + 1)``.

    Args:
      images: Embeddings, of any length.
      captions: Embeddings.
      candidates: See `draw_candidates`.

    Raises:
      ValueError: there is no image, or an embedding is zero or not finite.
    """
    images, captions = _unit(images), _unit(captions)
    hits = []
    for start in range(0, len(images), _CHUNK):
        part = candidates[start : start + _CHUNK]
        # A product and a sum, not a matrix product: equal captions have to have equal cosines.
        cosines = (images[start : start + _CHUNK, None] * captions[part]).sum(axis=-1)
        cosines = np.where(part == _NOBODY, -np.inf, cosines)
        beaten = (cosines > cosines[:, :1]).any(axis=1)
        ties = (cosines == cosines[:, :1]).sum(axis=1)  # The true one is among them.
        hits.append(np.where(beaten, 0.0, 1.0 / ties))
    value = float(np.mean(np.concatenate(hits)))
    chance = float(np.mean(1.0 / (candidates != _NOBODY).sum(axis=1)))
    return RPrecision(value, *wilson_interval(value, len(images)), chance)


def clip_scores(
    images: Float[np.ndarray, "n d"], captions: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """``100 max(cos, 0)`` of each image and its caption; their mean is the CLIP score.

    Hessel et al. 2021 without their factor 2.5 (instead of 100) and without their words before the
    caption. Each pair is clipped, not the mean.

    Raises:
      ValueError: there is no image, or an embedding is zero or not finite.
    """
    cosines = (_unit(images) * _unit(captions)).sum(axis=-1)
    return 100.0 * np.maximum(cosines, 0.0)


def mismatch(
    image_keys: Sequence[Hashable], meanings: Sequence[Hashable], *, seed: int
) -> Int[np.ndarray, " n"]:
    """For every image a caption of another image that says something else, drawn with a seed.

    Args:
      image_keys: See `draw_candidates`.
      meanings: See `draw_candidates`.
      seed: Of the draw.

    Raises:
      ValueError: there is none for an image.
    """
    return draw_candidates(image_keys, meanings, num_others=1, seed=seed)[:, 1]


def _numbered(keys: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """Equal keys as equal numbers."""
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
