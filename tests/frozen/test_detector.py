"""The frozen detector against keras-hub's own detections, on a small preset with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import presets
from xmc_jax import images
from xmc_jax.errors import UserError
from xmc_jax.frozen import hub
from xmc_jax.frozen.detector import class_scores, load_detector


def test_scores_of_classes():
    scores = jnp.array([[[0.9, 0.8, 0.1], [0.2, 0.3, 0.1], [0.4, 0.1, 0.1]]])
    # Boxes are of classes 0, 1 and 0; nothing is of class 2, and 0.8 is not the first box's best.
    np.testing.assert_allclose(class_scores(jax.scipy.special.logit(scores)), [[0.9, 0.3, 0.0]])


@pytest.fixture(scope="module")
def preset(folder):
    return presets.write_detector(folder / "dfine")


@pytest.fixture(scope="module")
def detect(preset):
    """``pixels -> scores`` of the small detector, compiled."""
    detector = load_detector(preset)
    apply = jax.jit(detector.apply)
    return lambda pixels: np.asarray(apply(detector.params, images.from_uint8(jnp.asarray(pixels))))


@pytest.fixture
def pixels(rng):
    side = presets.DETECTOR_SIDE
    return rng.integers(0, 256, (3, side, side, 3), np.uint8)


def test_scores_of_an_image_do_not_depend_on_the_others(detect, pixels):
    scores = detect(pixels)
    assert scores.shape == (3, 80) and scores.min() == 0.0 and 0.0 < scores.max() <= 1.0
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    np.testing.assert_allclose(detect(pixels[[2, 0, 1]]), scores[[2, 0, 1]], atol=1e-5)


@pytest.mark.long
def test_detections_are_those_of_keras_hub(preset, detect, pixels):
    backbone = hub.keras_hub.models.DFineBackbone.from_preset(preset)
    # All boxes, none suppressed: a random network has low scores everywhere.
    decoder = hub.keras_hub.layers.NonMaxSuppression(
        "yxyx", from_logits=True, iou_threshold=1.0, confidence_threshold=0.0, max_detections=6
    )
    theirs = hub.keras_hub.models.DFineObjectDetector(backbone, 80, prediction_decoder=decoder)
    with jax.numpy_rank_promotion("allow"):
        boxes = theirs.predict(pixels.astype(np.float32) / 255, verbose=0)
    expected = np.zeros((3, 80))
    for row, labels, confidences in zip(
        expected, boxes["labels"], boxes["confidence"], strict=True
    ):
        for label, confidence in zip(labels, confidences, strict=True):
            row[label] = max(row[label], confidence)
    np.testing.assert_allclose(detect(pixels), expected, atol=1e-5)
    assert (expected > 0).sum() >= 3 and np.ptp(expected[expected > 0]) > 0


def test_other_folders_are_refused(folder):
    with pytest.raises(UserError, match=r"eval\.detector='no' is neither .* dfine_nano_coco"):
        load_detector("no", field="config.eval.detector")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty' does not hold a D-FINE"):
        load_detector(str(folder / "empty"))
