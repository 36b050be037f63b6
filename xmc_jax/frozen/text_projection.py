"""A frozen linear map of text embeddings: centred, whitened, in fewer dimensions.

Embeddings of sentences about one thing differ little: most of their length is common to all, and
few directions carry nearly all of the rest. Whitened, a colour counts as much as a place, and a
narrow network needs no wide layers to read them. The map is computed once from captions of the
training split, and belongs to the model like the encoder's weights.
"""

import functools

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Int32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xmc_jax import files
from xmc_jax.errors import UserError, reason
from xmc_jax.frozen import whitening
from xmc_jax.frozen.text_encoder import TextEncoder
from xmc_jax.frozen.whitening import Projection
from xmc_jax.types import EncodedText, EncodeText, PyTree

FIELD = "config.text.projection"


def check_width(width: int, text_width: int) -> None:
    """Raises UserError if the text has fewer dimensions than a projection of it."""
    if width > text_width:
        raise UserError(
            f"{FIELD}={width} is wider than the text encoder's {text_width}; use at most that, or "
            "0 for no projection"
        )


def project(encoder: TextEncoder, projection: Projection) -> TextEncoder:
    """The encoder followed by the projection, which becomes a part of its weights."""
    return encoder._replace(
        apply=functools.partial(_encode, encoder.apply),
        params=(encoder.params, projection),
        width=projection.sentence_kernel.shape[-1],
    )


def is_projected(encoder: TextEncoder) -> bool:
    """Whether the encoder comes from `project`."""
    return isinstance(encoder.params[1], Projection)


def without_projection(encoder: TextEncoder) -> TextEncoder:
    """The encoder that was given to `project`."""
    params, projection = encoder.params
    (encode,) = encoder.apply.args
    return encoder._replace(apply=encode, params=params, width=projection.sentence_mean.size)


def replace(encoder: TextEncoder, projection: Projection) -> TextEncoder:
    """The encoder of `project` with another projection of the same shapes."""
    params, _ = encoder.params
    return encoder._replace(params=(params, projection))


def _encode(encode: EncodeText, params: PyTree, tokens: Int32[Array, "b t"]) -> EncodedText:
    params, projection = params
    return whitening.apply(projection, encode(params, tokens))


def describe(text_width: int, width: int) -> Projection:
    """Shapes in place of a projection, for programs that are compiled but not run."""
    shapes = (text_width,), (text_width, width)
    return Projection(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in 2 * shapes))


def read(path: epath.Path, width: int) -> Projection:
    """Reads the projection of a model.

    Raises:
      UserError: the file is missing or damaged, or has another width than the config.
    """
    try:
        projection = Projection(**load(path.read_bytes()))
        if (found := projection.sentence_kernel.shape[-1]) != width:
            raise UserError(
                f"{path} projects text to {found} dimensions, but {FIELD}={width}; copy the file "
                "that belongs to this config"
            )
        return projection
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {reason(error)}; {FIELD}={width} needs it: copy the whole folder"
        ) from error
    except (SafetensorError, TypeError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}); copy it again") from error


def write(path: epath.Path, projection: Projection) -> None:
    """Writes a projection for `read`. Raises UserError if it cannot be written."""
    arrays = {name: np.ascontiguousarray(x) for name, x in projection._asdict().items()}
    files.write_whole(path, save(arrays))
