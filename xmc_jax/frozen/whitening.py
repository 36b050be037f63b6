"""The mathematics of the text projection: whitening by principal axes."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from xmc_jax.types import EncodedText

_DAMPING = 0.02  # Of the variances, in units of the largest: directions of mere noise stay small.


class Projection(NamedTuple):
    """Maps ``x`` to ``(x - mean) @ kernel``, one map for words and one for sentences."""

    word_mean: Float[Array, " w"]
    word_kernel: Float[Array, "w d"]
    sentence_mean: Float[Array, " w"]
    sentence_kernel: Float[Array, "w d"]


def fit(
    words: Float[np.ndarray, "n t w"],
    sentence: Float[np.ndarray, "n w"],
    word_mask: Bool[np.ndarray, "n t"],
    width: int,
) -> Projection:
    """Computes a projection to `width` dimensions, at most those of the text, from captions."""
    return Projection(*_whitening(words[word_mask], width), *_whitening(sentence, width))


def _whitening(x: Float[np.ndarray, "n w"], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and kernel: principal axes by falling variance, each divided by ``sqrt(variance + c)``.

    A common factor keeps the mean squared length of the centred vectors. The sign of an axis, which
    the eigenvectors leave open, makes its largest entry positive.
    """
    x = x.astype(np.float64)
    mean = np.mean(x, axis=0)
    x -= mean
    variances, axes = np.linalg.eigh(x.T @ x / len(x))
    variances, axes = np.maximum(variances[::-1], 0.0), axes[:, ::-1]
    axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), range(len(axes))])
    damped = variances + _DAMPING * variances[0] + np.finfo(np.float64).tiny
    kernel = (axes / np.sqrt(damped))[:, :width]
    kernel *= np.sqrt(variances.sum() / np.maximum(np.sum((variances / damped)[:width]), 1e-12))
    return mean.astype(np.float32), kernel.astype(np.float32)


def apply(
    projection: Projection,
    text: tuple[Float[Array, "b t w"], Float[Array, "b w"], Bool[Array, "b t"]],
) -> EncodedText:
    """Projects words and sentences; words stay zero at padding."""
    words, sentence, word_mask = text
    words = (words - projection.word_mean[None, None]) @ projection.word_kernel
    sentence = (sentence - projection.sentence_mean[None]) @ projection.sentence_kernel
    return jnp.where(word_mask[..., None], words, 0.0), sentence, word_mask
