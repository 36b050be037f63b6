"""A frozen detector of COCO's classes: D-FINE (Peng et al. 2024) from keras-hub.

It finds objects in images, see `metrics.soa` and `metrics.compose`.
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
      apply: ``(params, images in [-1, 1]) -> boxes``, pure, see `class_boxes`. The number of boxes
        is that of the network's queries; most have low scores, and none is suppressed. Square
        images of any size are resized to that of the network (bilinear, antialiased).
      params: Weights; pass them to jitted functions as arguments.
      name: The name of the preset or of its folder.
      fingerprint: sha256 of the weights.
    """

    apply: Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b boxes 6"]]
    params: PyTree
    name: str
    fingerprint: str


def load_detector(preset: str, *, field: str = "preset") -> Detector:
    """Loads a frozen D-FINE; `preset` and `field` as in `presets.load_preset`.

    Raises:
      UserError: There is no such preset, it is not a D-FINE, or its classes are not COCO's.
    """
    # The backbone has all weights. The detector around it only suppresses duplicate boxes, of which
    # networks of this kind have few: each object is assigned to one query in training.
    named = {"field": field, "kind": "a D-FINE"}
    backbone = presets.load_preset(hub.keras_hub.models.DFineBackbone, preset, **named)
    if backbone.num_labels != NUM_CLASSES:
        raise UserError(
            f"{field}={preset!r} has {backbone.num_labels} classes, not COCO's {NUM_CLASSES}; "
            "take a preset with coco in its name, e.g. dfine_medium_coco"
        )
    converter = hub.keras_hub.layers.DFineImageConverter
    scaling = presets.load_scaling(converter, preset, _SCALING, **named)
    apply, side = presets.make_apply(backbone), backbone.anchor_image_size[0]

    def detect(params: PyTree, images: Float[Array, "b h w 3"]) -> Float[Array, "b boxes 6"]:
        outputs = apply(params, scaling(presets.resize(images, side, "linear")))
        places = outputs["intermediate_reference_points"][:, -1]
        return class_boxes(outputs["intermediate_logits"][:, -1], places)

    params = weights.params_of(backbone)
    return Detector(detect, params, Path(preset).expanduser().name, weights.fingerprint(params))


def class_boxes(
    logits: Float[Array, "b boxes classes"], places: Float[Array, "b boxes 4"]
) -> Float[Array, "b boxes 6"]:
    """The best class of each box, its score, 0..1, and the box: left, top, right and bottom.

    Boxes are in units of the image's side and do not leave the image; y points down.

    Args:
      logits: Of each class.
      places: Centre ``(x, y)``, width and height.
    """
    logits, places = logits.astype(jnp.float32), places.astype(jnp.float32)
    classes = jnp.argmax(logits, axis=-1, keepdims=True).astype(jnp.float32)
    scores = jax.nn.sigmoid(jnp.max(logits, axis=-1, keepdims=True))
    centre, half = places[..., :2], places[..., 2:] / 2
    corners = jnp.clip(jnp.concatenate([centre - half, centre + half], axis=-1), 0.0, 1.0)
    return jnp.concatenate([classes, scores, corners], axis=-1)
