"""What keras-hub's presets have in common: finding them, how they take pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import keras_hub
import numpy as np
from jaxtyping import Array, Float

from xmc_jax.errors import UserError
from xmc_jax.frozen.weights import not_drawn
from xmc_jax.types import PyTree


class PixelScaling(NamedTuple):
    """Pixels 0..255 to a network's input: ``pixels * scale + offset``, of all channels or each."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        scale, offset = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, -1) for x in self)
        scale, offset = (jnp.broadcast_to(x, pixels.shape) for x in (scale, offset))
        return pixels * scale + offset


def load_preset(cls: type, preset: str, *, field: str, kind: str):
    """Loads a preset: its folder, or by its name, which Keras downloads.

    Args:
      cls: What to load: a class of backbones or tokenizers of keras-hub.
      preset: Folder or name.
      field: Whoever names the preset, for messages.
      kind: What the preset should be, with its article, for messages.

    Raises:
      UserError: there is no such preset, it is of another kind, or it cannot be fetched.
    """
    folder = Path(preset).expanduser()
    if not folder.is_dir() and preset not in cls.presets:
        raise UserError(
            f"{field}={preset!r} is neither the folder of a keras-hub preset nor the name of one; "
            f"known are {', '.join(cls.presets)}"
        )
    try:
        with not_drawn():
            return cls.from_preset(_location(preset))
    except Exception as error:  # keras-hub raises many kinds, depending on what is wrong.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fault = f"does not hold {kind}" if folder.is_dir() else "could not be fetched"
        raise UserError(f"{field}={preset!r} {fault}: {reason}") from error


def load_scaling(
    cls: type[keras_hub.layers.ImageConverter], preset: str, default: PixelScaling
) -> PixelScaling:
    """How a preset's network takes pixels; the default where it does not say."""
    try:
        converter = cls.from_preset(_location(preset))
    except FileNotFoundError:
        return default
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return PixelScaling(*(tuple(np.atleast_1d(x).tolist()) for x in (scale, offset)))


def make_apply(model: keras.Model) -> Callable[[PyTree, Array], PyTree]:
    """``(params, inputs) -> outputs``, pure, in float32 on every platform.

    Judges are compared across machines: neither the bfloat16 passes of TPUs nor the TF32 of GPUs
    may decide between two captions.
    """

    def apply(params: PyTree, inputs: Array) -> PyTree:
        # Keras' own layers broadcast biases.
        with jax.default_matmul_precision("float32"), jax.numpy_rank_promotion("allow"):
            outputs, _ = model.stateless_call(*params, inputs, training=False)
        return outputs

    return apply


def resize(
    images: Float[Array, "b h w 3"], side: int, method: str
) -> Float[Array, "b side side 3"]:
    """Images in [-1, 1] to whole pixel values 0..255 of another size, as Pillow makes them.

    Antialiased; first the rows, then the columns, each rounded and clipped: a sharp edge overshoots
    in both, and what the first pass cuts off is not there for the second.
    """
    pixels = jnp.round((images.astype(jnp.float32) + 1.0) * 127.5)
    b, height, _, channels = pixels.shape
    for shape in ((b, height, side, channels), (b, side, side, channels)):
        resized = jax.image.resize(pixels, shape, method, antialias=True)
        pixels = jnp.clip(jnp.round(resized), 0.0, 255.0)
    return pixels


def _location(preset: str) -> str:
    folder = Path(preset).expanduser()
    return str(folder) if folder.is_dir() else preset
