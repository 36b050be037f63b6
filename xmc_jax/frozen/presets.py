"""What the networks from keras-hub presets share: loading, pixel scaling, resizing."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xmc_jax.errors import UserError, reason
from xmc_jax.frozen import hub
from xmc_jax.frozen.weights import call, zero_initializers
from xmc_jax.types import PyTree

if TYPE_CHECKING:
    import keras
    import keras_hub


class PixelScaling(NamedTuple):
    """Maps pixels, 0..255, to the input of a network: ``pixels * scale + offset``.

    Either is one number for all channels, or one for each.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        scale, offset = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, -1) for x in self)
        scale, offset = (jnp.broadcast_to(x, pixels.shape) for x in (scale, offset))
        return pixels * scale + offset


def load_preset(cls: type, preset: str, *, field: str, kind: str, other_names: Iterable[str] = ()):
    """Loads a keras-hub preset.

    Args:
      cls: What to load: a class of backbones or tokenizers of keras-hub.
      preset: Its folder, or its name, e.g. ``clip_vit_base_patch32`` or ``dfine_medium_coco``,
        which Keras downloads.
      field: The config field of the preset, for messages.
      kind: What the preset should be, with its article, for messages.
      other_names: Names that the field takes besides those of presets, for messages.

    Raises:
      UserError: There is no such preset, it is of another kind, or it cannot be downloaded.
    """
    if not Path(preset).expanduser().is_dir() and preset not in cls.presets:
        raise UserError(
            f"{field}={preset!r} is neither the folder of a keras-hub preset nor the name of one; "
            f"known are {', '.join([*other_names, *cls.presets])}"
        )
    with (
        faults_named(preset, field=field, kind=kind),
        zero_initializers(),
        hub.without_tensorflow(),
    ):
        return cls.from_preset(location(preset))


@contextlib.contextmanager
def faults_named(preset: str, *, field: str, kind: str) -> Iterator[None]:
    """Turns every error into a `UserError` that names the preset; arguments as `load_preset`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # keras-hub raises many types, depending on the fault.
        is_folder = Path(preset).expanduser().is_dir()
        fault = f"does not hold {kind}" if is_folder else "could not be downloaded"
        raise UserError(f"{field}={preset!r} {fault}: {reason(error)}") from error


def load_scaling(
    cls: "type[keras_hub.layers.ImageConverter]", preset: str, default: PixelScaling
) -> PixelScaling:
    """The pixel scaling of a preset, or the default if the preset has none."""
    try:
        with hub.without_tensorflow():
            converter = cls.from_preset(location(preset))
    except FileNotFoundError:
        return default
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return PixelScaling(*(tuple(np.atleast_1d(x).tolist()) for x in (scale, offset)))


def make_apply(model: "keras.Model") -> Callable[[PyTree, Array], PyTree]:
    """``(params, inputs) -> outputs``, a pure function that computes in float32 on all platforms.

    Metrics are compared across machines, so a decision between two captions must not depend on the
    bfloat16 passes of TPUs or the TF32 of GPUs.
    """

    def apply(params: PyTree, inputs: Array) -> PyTree:
        with jax.default_matmul_precision("float32"):
            return call(model, params, inputs)

    return apply


def resize(
    images: Float[Array, "b h w 3"], side: int, method: str
) -> Float[Array, "b side side 3"]:
    """Resizes images in [-1, 1] to integral pixel values 0..255, exactly as Pillow does.

    Antialiased. The width is resized first, then the height, and both results are rounded and
    clipped, because sharp edges overshoot in both passes.
    """
    pixels = jnp.round((images.astype(jnp.float32) + 1.0) * 127.5)
    b, height, _, channels = pixels.shape
    for shape in ((b, height, side, channels), (b, side, side, channels)):
        resized = jax.image.resize(pixels, shape, method, antialias=True)
        pixels = jnp.clip(jnp.round(resized), 0.0, 255.0)
    return pixels


def location(preset: str) -> str:
    """The folder of a preset, or its name if it is no folder."""
    folder = Path(preset).expanduser()
    return str(folder) if folder.is_dir() else preset
