"""families/vgg16.py: distances to nearest training images, for features that are known."""

import numpy as np
import pytest
from etils import epath

from tests.evaluation.families.test_shapes import image_set
from xmc_jax.configs import emoji_64, shapes_32
from xmc_jax.evaluation.families import vgg16 as family
from xmc_jax.evaluation.features import InputFeatures
from xmc_jax.evaluation.inputs import EvalInputs
from xmc_jax.evaluation.selection import choose_metrics

COUNT, NAME = 40, "nearest_train_vgg16"


class Rows(InputFeatures):
    """Features that are the first two channels of the first pixel."""

    def __init__(self):
        pass

    def whole(self, images):
        return np.concatenate([x[:, 0, 0, :2] for x in images.batches()]).astype(np.float32)


def make_images(name, points):
    pixels = np.zeros((len(points), 2, 2, 3), np.uint8)
    pixels[:, 0, 0, :2] = points
    return image_set(name, pixels)


def measure(generated, other_count=COUNT):
    """Training images lie on a line; those that are held out at distances 1 to 40 from it."""
    line = np.stack([np.arange(COUNT), np.zeros(COUNT)], axis=1)
    real = line + np.stack([np.zeros(COUNT), 1 + np.arange(COUNT)], axis=1)
    inputs = EvalInputs(
        emoji_64.get_config(),
        (),
        make_images("real", real),
        make_images("other real", real[:other_count]),
        make_images("generated", generated),
        lambda prompts, name: None,
        epath.Path(),
        step=7,
        generator="g",
        open_training=lambda: make_images("training", line),
    )
    fields = family._nearest_training_images(inputs, Rows())
    return {x["metric"].partition("/")[2]: inputs.record(weights="w", **x) for x in fields}


def test_copies_are_near():
    found = measure([(i, 0) for i in range(COUNT)])
    assert found["distance"].value == pytest.approx(0, abs=1e-6)
    assert found["distance"].ceiling == pytest.approx((1 + COUNT) / 2)
    # The quantile 0.05 of 1 ... 40 is 2.95, and two held-out images are nearer.
    assert (found["near"].value, found["near"].floor) == (1.0, 0.05)
    assert found["near"].better == "lower" and found["distance"].better == "higher"
    for part, record in found.items():
        assert record.metric == f"{NAME}/{part}"
        assert "nearest of 40 images of train" in record.protocol and "val" in record.protocol


def test_a_share_of_copies():
    found = measure([(i, 0 if i < 10 else 100) for i in range(COUNT)])
    assert (found["near"].value, found["distance"].value) == (0.25, 75.0)


def test_without_other_real_images_there_is_no_floor():
    assert measure([(0, 9), (1, 9)], other_count=0)["near"].floor is None


def test_where_it_is_unavailable():
    config = emoji_64.get_config()
    config.loss.image_pretrained_weight = 0.0
    assert NAME in choose_metrics((), config)

    def reason():
        return family.reason_unavailable(NAME, config, None)

    config.data.eval_split = "train"
    assert "held out" in reason()
    with config.unlocked():
        del config.data.train_split  # An exported model may lack it.
    assert "held out" in reason()
    config.data.eval_name = "folder"
    assert "evaluated on folder, and trained on emoji" in reason()
    config = shapes_32.get_config()
    assert "shapes" in reason() and NAME not in choose_metrics((), config)
