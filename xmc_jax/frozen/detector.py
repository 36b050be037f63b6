"""A frozen detector of COCO's classes: D-FINE (Peng et al. 2024) from keras-hub.

It decides which objects are in images, see `metrics.soa`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xmc_jax.errors import UserError
from xmc_jax.frozen import hub, presets, weights
from xmc_jax.types import PyTree

NUM_CLASSES = 80  # COCO's.
_SCALING = presets.PixelScaling((1 / 255,), (0.0,))  # All published D-FINEs take [0, 1].


class Detector(NamedTuple):
    """A frozen detector.

    Attributes:
      apply: ``(params, images in [-1, 1]) -> scores``, pure. For each of COCO's 80 classes, the
        best score, 0..1, of its boxes, see `class_scores`. Square images of any size are resized to
        that of the network (bilinear, antialiased).
      params: Weights; pass them to jitted functions as arguments.
      name: The name of the preset or of its folder.
      fingerprint: sha256 of the weights.
    """

    apply: Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b classes"]]
    params: PyTree
    name: str
    fingerprint: str


def load_detector(preset: str, *, field: str = "preset") -> Detector:
    """Loads a frozen D-FINE; `preset` and `field` as in `presets.load_preset`.

    Raises:
      UserError: There is no such preset, it is not a D-FINE, or its classes are not COCO's.
    """
    # The backbone has all weights. The detector around it only suppresses duplicate boxes, which
    # never removes a class.
    backbone = presets.load_preset(
        hub.keras_hub.models.DFineBackbone, preset, field=field, kind="a D-FINE"
    )
    if backbone.num_labels != NUM_CLASSES:
        raise UserError(
            f"{field}={preset!r} has {backbone.num_labels} classes, not COCO's {NUM_CLASSES}; "
            "take a preset with coco in its name, e.g. dfine_medium_coco"
        )
    scaling = presets.load_scaling(hub.keras_hub.layers.DFineImageConverter, preset, _SCALING)
    apply, side = presets.make_apply(backbone), backbone.anchor_image_size[0]

    def detect(params: PyTree, images: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        pixels = presets.resize(images, side, "linear")
        logits = apply(params, scaling(pixels))["intermediate_logits"][:, -1]
        return class_scores(logits)

    params = weights.params_of(backbone)
    return Detector(detect, params, Path(preset).expanduser().name, weights.fingerprint(params))


def class_scores(logits: Float[Array, "b boxes classes"]) -> Float[Array, "b classes"]:
    """For each class, the best score of the boxes with this class as their best, or 0."""
    logits = logits.astype(jnp.float32)
    is_best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    return jnp.max(jnp.where(is_best, jax.nn.sigmoid(logits), 0.0), axis=1)
