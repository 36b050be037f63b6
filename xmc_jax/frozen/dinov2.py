"""A frozen DINOv2 (Oquab et al. 2023) from keras-hub, as a pure function and its weights.

Its features are those of FD-DINOv2 (Stein et al. 2023, dgm-eval), see `metrics.frechet`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from xmc_jax.frozen import hub, presets, weights
from xmc_jax.frozen.image_features import IMAGENET_MEAN, IMAGENET_STD
from xmc_jax.types import PyTree

if TYPE_CHECKING:
    import keras_hub

SIDE = 224  # Pixels of the images that the network is given; the weights were trained at 518.
_SCALING = presets.standardise(IMAGENET_MEAN, IMAGENET_STD)


class Dinov2(NamedTuple):
    """A frozen DINOv2.

    Attributes:
      apply: ``(params, images in [-1, 1]) -> features``, pure: the class token after the last
        normalisation. Square images of any size are resized to `SIDE` (bicubic, antialiased,
        rounded to 8 bits, as by Pillow) and standardised with ImageNet's mean and deviation.
      params: Weights; pass them to jitted functions as arguments.
      name: The name of the preset or of its folder.
      fingerprint: sha256 of the weights.
    """

    apply: Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b d"]]
    params: PyTree
    name: str
    fingerprint: str


def load_dinov2(preset: str, *, field: str = "preset") -> Dinov2:
    """Loads a frozen DINOv2; `preset` and `field` as in `presets.load_preset`.

    Raises:
      UserError: There is no such preset, or it is not a DINOv2.
    """
    backbone = presets.load_preset(
        hub.keras_hub.models.DINOV2Backbone,
        preset,
        field=field,
        kind="a DINOv2",
        image_shape=(SIDE, SIDE, 3),
    )
    _place_patches(backbone)
    apply = presets.make_apply(backbone)

    def class_token(params: PyTree, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        pixels = presets.resize(images, SIDE, "cubic")
        return apply(params, {"images": _SCALING(pixels)})[:, 0]

    params = weights.params_of(backbone)
    name = Path(preset).expanduser().name
    return Dinov2(class_token, params, name, weights.fingerprint(params))


def _place_patches(backbone: "keras_hub.models.DINOV2Backbone") -> None:
    """Interpolates the position embeddings to the network's images as the original does.

    keras-hub's bicubic kernel is another one, which changes all features. Networks with registers
    were trained with an antialiased kernel, which is the same on both sides.
    """
    if backbone.antialias_in_interpolation:
        return
    layer = backbone.embeddings
    token, patches = np.split(np.asarray(layer.position_embeddings.value), [1], axis=1)
    old, new = round(patches.shape[1] ** 0.5), SIDE // backbone.patch_size
    if old == new:
        return
    taps, width = _bicubic_weights(old, new), patches.shape[-1]
    placed = np.einsum("ai,bj,ijd->abd", taps, taps, patches.reshape(old, old, width))
    whole = np.concatenate([token, placed.reshape(1, new * new, width)], axis=1)
    layer.interpolated_position_embeddings.assign(whole)


def _bicubic_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of a row of `old` numbers that is resized to `new`, as the original resizes it.

    PyTorch's kernel (a = -0.75), not antialiased. The original passes a scale of ``(new + 0.1) /
    old`` in place of ``new / old``, which moves the patches a little.
    """
    centres = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    first, weights = np.floor(centres).astype(int) - 1, np.zeros((new, old))
    for index in (first + tap for tap in range(4)):
        x = np.abs(centres - index)
        inner = (1.25 * x - 2.25) * x * x + 1
        outer = -0.75 * (((x - 5) * x + 8) * x - 4)
        # Beyond the border the outermost number is repeated.
        weight = np.where(x <= 1, inner, outer)
        np.add.at(weights, (np.arange(new), np.clip(index, 0, old - 1)), weight)
    return weights
