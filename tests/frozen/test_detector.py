"""The frozen detector against keras-hub's own detections, on a small preset with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import presets
from xmc_jax import images
from xmc_jax.errors import UserError
from xmc_jax.frozen import hub
from xmc_jax.frozen.detector import class_boxes, load_detector
from xmc_jax.metrics.soa import class_scores


def test_boxes_and_scores_of_classes():
    scores = jnp.array([[[0.9, 0.8, 0.1], [0.2, 0.3, 0.1], [0.4, 0.1, 0.1]]])
    places = jnp.array([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.4, 0.2], [0.9, 1.0, 0.1, 0.2]]])
    boxes = class_boxes(jax.scipy.special.logit(scores), places)
    expected = [
        [0, 0.9, 0.4, 0.3, 0.6, 0.7],
        [1, 0.3, 0.0, 0.1, 0.3, 0.3],  # Cut at the left edge of the image.
        [0, 0.4, 0.85, 0.9, 0.95, 1.0],
    ]
    np.testing.assert_allclose(boxes, [expected], rtol=1e-6)
    # Nothing is of class 2, and 0.8 is not the first box's best.
    found = class_scores(np.asarray(boxes))
    np.testing.assert_allclose(found[:, :3], [[0.9, 0.3, 0.0]], rtol=1e-6)
    assert found.shape == (1, 80) and not found[:, 3:].any()


@pytest.fixture(scope="module")
def preset(folder):
    return presets.write_detector(folder / "dfine")


@pytest.fixture(scope="module")
def detect(preset):
    """``pixels -> boxes`` of the small detector, compiled."""
    detector = load_detector(preset)
    apply = jax.jit(detector.apply)
    return lambda pixels: np.asarray(apply(detector.params, images.from_uint8(jnp.asarray(pixels))))


@pytest.fixture
def pixels(rng):
    side = presets.DETECTOR_SIDE
    return rng.integers(0, 256, (3, side, side, 3), np.uint8)


def test_boxes_of_an_image_do_not_depend_on_the_others(detect, pixels):
    boxes = detect(pixels)
    assert boxes.shape == (3, 6, 6) and boxes.min() >= 0.0 and boxes[..., 1:].max() <= 1.0
    assert (boxes[..., 2:4] < boxes[..., 4:]).all()
    assert np.abs(boxes[0] - boxes[1]).max() > 1e-4
    np.testing.assert_allclose(detect(pixels[[2, 0, 1]]), boxes[[2, 0, 1]], atol=1e-5)


@pytest.mark.long
def test_detections_are_those_of_keras_hub(preset, detect, pixels):
    backbone = hub.keras_hub.models.DFineBackbone.from_preset(preset)
    # All boxes, none suppressed: a random network has low scores everywhere.
    decoder = hub.keras_hub.layers.NonMaxSuppression(
        "yxyx", from_logits=True, iou_threshold=1.0, confidence_threshold=0.0, max_detections=6
    )
    theirs = hub.keras_hub.models.DFineObjectDetector(backbone, 80, prediction_decoder=decoder)
    with jax.numpy_rank_promotion("allow"):
        found = theirs.predict(pixels.astype(np.float32) / 255, verbose=0)
    corners = found["boxes"][..., [1, 0, 3, 2]] / presets.DETECTOR_SIDE
    columns = (found["labels"][..., None], found["confidence"][..., None], np.clip(corners, 0, 1))
    expected, boxes = np.concatenate(columns, axis=-1), detect(pixels)
    assert boxes.shape == expected.shape
    for ours, row in zip(boxes, expected, strict=True):
        # Boxes are in another order there; each of ours is one of theirs, and each of theirs ours.
        distances = np.abs(ours[:, None] - row).max(axis=-1)
        assert distances.min(axis=0).max() < 1e-4 and distances.min(axis=1).max() < 1e-4


def test_other_folders_are_refused(folder):
    with pytest.raises(UserError, match=r"eval\.detector='no' is neither .* dfine_nano_coco"):
        load_detector("no", field="config.eval.detector")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty' does not hold a D-FINE"):
        load_detector(str(folder / "empty"))
