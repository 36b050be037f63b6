"""What the networks from keras-hub presets share: loading, pixel scaling, resizing."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from xmc_jax.errors import UserError, reason
from xmc_jax.frozen import hub
from xmc_jax.frozen.weights import call, zero_initializers
from xmc_jax.types import PyTree

if TYPE_CHECKING:
    import keras
    import keras_hub


_FRACTION_BITS = 22  # Of Pillow's weights for resizing.


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


def standardise(mean: Iterable[float], std: Iterable[float]) -> PixelScaling:
    """The scaling to mean 0 and deviation 1, from statistics of pixels in [0, 1]."""
    pairs = list(zip(mean, std, strict=True))
    return PixelScaling(tuple(1 / (255 * s) for _, s in pairs), tuple(-m / s for m, s in pairs))


def load_preset(
    cls: type,
    preset: str,
    *,
    field: str,
    kind: str,
    other_names: Iterable[str] = (),
    **changes: Any,
):
    """Loads a keras-hub preset.

    Args:
      cls: What to load: a class of backbones or tokenizers of keras-hub.
      preset: Its folder, or its name, e.g. ``clip_vit_base_patch32`` or ``dfine_medium_coco``,
        which Keras downloads.
      field: The config field of the preset, for messages.
      kind: What the preset should be, with its article, for messages.
      other_names: Names that the field takes besides those of presets, for messages.
      **changes: Arguments of the class that take the place of those of the preset.

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
        return cls.from_preset(location(preset), **changes)


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
    cls: "type[keras_hub.layers.ImageConverter]",
    preset: str,
    default: PixelScaling,
    *,
    field: str,
    kind: str,
) -> PixelScaling:
    """The pixel scaling of a preset, or the default if the preset has none.

    Arguments and errors are those of `load_preset`.
    """
    with faults_named(preset, field=field, kind=kind), hub.without_tensorflow():
        try:
            converter = cls.from_preset(location(preset))
        except FileNotFoundError:
            return default
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return PixelScaling(*(tuple(np.atleast_1d(x).tolist()) for x in (scale, offset)))


def make_apply(model: "keras.Model") -> Callable[[PyTree, PyTree], PyTree]:
    """``(params, inputs) -> outputs``, a pure function that computes in float32 on all platforms.

    Metrics are compared across machines, so a decision between two captions must not depend on the
    bfloat16 passes of TPUs or the TF32 of GPUs.
    """

    def apply(params: PyTree, inputs: PyTree) -> PyTree:
        with jax.default_matmul_precision("float32"):
            return call(model, params, inputs)

    return apply


def resize(
    images: Float[Array, "b h w 3"], side: int, method: str
) -> Float[Array, "b side side 3"]:
    """Resizes images in [-1, 1] to integral pixel values 0..255, exactly as Pillow does.

    Antialiased. The width is resized first, then the height, and both results are rounded and
    clipped, because sharp edges overshoot in both passes.

    Args:
      images: The images.
      side: Height and width of the results.
      method: ``"linear"`` or ``"cubic"`` (Pillow's bicubic, a = -0.5).
    """
    pixels = jnp.round((images.astype(jnp.float32) + 1.0) * 127.5).astype(jnp.int32)
    for axis in (2, 1):
        # Integers, as in Pillow: in float32 some halves would be rounded up and others down.
        sums = jnp.int32(1 << _FRACTION_BITS - 1)
        for index, weight in zip(*_pillow_taps(pixels.shape[axis], side, method), strict=True):
            shape = [side if i == axis else 1 for i in range(4)]
            sums += weight.reshape(shape) * jnp.take(pixels, index, axis)
        pixels = jnp.clip(sums >> _FRACTION_BITS, 0, 255)
    return pixels.astype(jnp.float32)


def _pillow_taps(
    old: int, new: int, method: str
) -> tuple[Int[np.ndarray, "taps new"], Int32[np.ndarray, "taps new"]]:
    """How a row of `old` pixels is resized to `new`: pixels and their weights in units of 2^-22."""
    stretch = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * (old / new)
    x = np.abs(np.arange(old) + 0.5 - centres[:, None]) / stretch
    if method == "linear":
        weights = np.maximum(1 - x, 0)
    else:
        outer = np.where(x < 2, -0.5 * (((x - 5) * x + 8) * x - 4), 0)
        weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, outer)
    weights *= 2**_FRACTION_BITS / weights.sum(axis=1, keepdims=True)
    weights = (np.sign(weights) * np.floor(np.abs(weights) + 0.5)).astype(np.int32)
    used = weights != 0
    first, end = np.argmax(used, axis=1), old - np.argmax(used[:, ::-1], axis=1)
    num_taps = (end - first).max()
    first = np.minimum(first, old - num_taps)
    pixels = first[:, None] + np.arange(num_taps)
    return pixels.T, np.take_along_axis(weights, pixels, axis=1).T


def location(preset: str) -> str:
    """The folder of a preset, or its name if it is no folder."""
    folder = Path(preset).expanduser()
    return str(folder) if folder.is_dir() else preset
