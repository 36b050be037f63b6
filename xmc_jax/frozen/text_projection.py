"""A frozen linear map of text embeddings: centred, whitened, in fewer dimensions.

Embeddings of sentences about one thing differ little: most of their length is common to all, and
few directions carry nearly all of the rest. Whitened, a colour counts as much as a place, and a
narrow network needs no wide layers to read them. The map is computed once from captions of the
training split, and belongs to the model like the encoder's weights.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, Int32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xmc_jax import files
from xmc_jax.errors import UserError, reason
from xmc_jax.frozen.text_encoder import TextEncoder
from xmc_jax.types import EncodedText, EncodeText, PyTree

FIELD = "config.text.projection"
_DAMPING = 0.02  # Of the variances, in units of the largest: directions of mere noise stay small.


class Projection(NamedTuple):
    """Maps ``x`` to ``(x - mean) @ kernel``, one map for words and one for sentences."""

    word_mean: Float[Array, " w"]
    word_kernel: Float[Array, "w d"]
    sentence_mean: Float[Array, " w"]
    sentence_kernel: Float[Array, "w d"]


def check_width(width: int, text_width: int) -> None:
    """Raises UserError if the text has fewer dimensions than a projection of it."""
    if width > text_width:
        raise UserError(
            f"{FIELD}={width} is wider than the text encoder's {text_width}; use at most that, or "
            "0 for no projection"
        )


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


def project(encoder: TextEncoder, projection: Projection) -> TextEncoder:
    """The encoder followed by the projection, which becomes a part of its weights."""
    return encoder._replace(
        apply=functools.partial(_encode, encoder.apply),
        params=(encoder.params, projection),
        width=projection.sentence_kernel.shape[-1],
    )


def _encode(encode: EncodeText, params: PyTree, tokens: Int32[Array, "b t"]) -> EncodedText:
    params, projection = params
    words, sentence, word_mask = encode(params, tokens)
    words = (words - projection.word_mean[None, None]) @ projection.word_kernel
    sentence = (sentence - projection.sentence_mean[None]) @ projection.sentence_kernel
    return jnp.where(word_mask[..., None], words, 0.0), sentence, word_mask


def describe(text_width: int, width: int) -> Projection:
    """Shapes in place of a projection, for programs that are compiled but not run."""
    shapes = (text_width,), (text_width, width)
    return Projection(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in 2 * shapes))


def to_bytes(projection: Projection) -> bytes:
    """The contents of a file for `read`."""
    return save({name: np.ascontiguousarray(x) for name, x in projection._asdict().items()})


def read(path: epath.Path, width: int) -> Projection:
    """Reads the projection of a model.

    Raises:
      UserError: the file is missing or damaged, or has another width than the config.
    """
    try:
        projection = Projection(**load(path.read_bytes()))
        if (found := projection.sentence_kernel.shape[-1]) != width:
            raise UserError(f"{path} projects text to {found} dimensions, {FIELD} says {width}")
        return projection
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {reason(error)}; {FIELD}={width} needs it: copy the whole folder"
        ) from error
    except (SafetensorError, TypeError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}); copy it again") from error


def write(path: epath.Path, projection: Projection) -> None:
    """Writes a projection for `read`. Raises UserError if it cannot be written."""
    files.write_whole(path, to_bytes(projection))
