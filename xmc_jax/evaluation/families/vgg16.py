"""Generated images in features of VGG-16: their Fréchet distance, and whether they are copies."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict

from xmc_jax.evaluation.distances import frechet_between
from xmc_jax.evaluation.features import Features, InputFeatures, Network, on_pixels
from xmc_jax.evaluation.image_sets import ImageSet, make_progress
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, split_name
from xmc_jax.frozen.image_features import PACKAGED, load_image_features
from xmc_jax.metrics import nearest
from xmc_jax.run.records import MetricRecord

_RESOLUTION = 64  # Pixels; VGG-16 halves them five times.


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return tuple(_METRICS)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    # A config of another version may lack fields of training.
    loss, data = config.get("loss", {}), config.data
    if loss.get("image_pretrained_weight") and loss.get("image_pretrained_network") == "vgg16":
        return "the run was trained against VGG-16's own features"
    if name == "nearest_train_vgg16":
        if data.name == "shapes":
            return "images of shapes are random renders of the same few objects in all splits"
        if data.eval_name:
            return f"the run is evaluated on {data.eval_name}, and trained on {data.name}"
        if data.get("train_split", data.eval_split) == data.eval_split:
            return f"it needs images that are held out; {data.eval_split} is the training split"
    return None


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`."""
    vgg16 = load_image_features("vgg16", PACKAGED, _RESOLUTION)
    apply, title = on_pixels(vgg16.apply), f"vgg16 at {_RESOLUTION} px"
    features = Features(Network(title, apply, vgg16.params, vgg16.fingerprint), mesh)

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        rows = InputFeatures(features, inputs)
        return [
            inputs.record(weights=vgg16.fingerprint, **fields)
            for name in names
            for fields in _METRICS[name](inputs, rows)
        ]

    return measure


def _frechet_distance(inputs: EvalInputs, rows: InputFeatures) -> Iterator[dict]:
    """Fields of the record. Floor: the distance between two disjoint sets of real images."""
    value, floor = rows.compare(lambda x: frechet_between(x, inputs.real, rows.own))
    yield {
        "metric": "fd_vgg16",
        "protocol": (
            f"Fréchet distance, pooled conv5 features of VGG-16 at {_RESOLUTION} px, "
            f"{split_name(inputs.config)}; floor: {len(inputs.other_real)} other real images"
        ),
        "value": value,
        "floor": floor,
        "better": "lower",
    }


def _nearest_training_images(inputs: EvalInputs, rows: InputFeatures) -> Iterator[dict]:
    """Fields of the records of both parts. The reference is held-out real images."""
    images, config = inputs.open_training(), inputs.config
    training = rows.whole(images)

    def distances(images: ImageSet) -> Float[np.ndarray, " n"]:
        title = f"nearest training image of {images.name} images"
        progress = make_progress(len(images), name=title, unit="images")
        return nearest.nearest_distances(rows.whole(images), training, tell=progress.tell)

    generated, real = distances(inputs.generated), distances(inputs.real)
    protocol = (
        f"distance to the nearest of {len(training)} images of {config.data.train_split}, pooled "
        f"conv5 features of VGG-16 at {_RESOLUTION} px, {split_name(config)} at "
        f"{config.model.resolution} px ({config.data.form}, {config.data.crop})"
    )
    yield {
        "metric": "nearest_train_vgg16/distance",
        "protocol": f"mean {protocol}; ceiling: {len(real)} real images",
        "value": float(generated.mean()),
        "ceiling": float(real.mean()),
        "better": "higher",
    }
    others = inputs.other_real
    yield {
        "metric": "nearest_train_vgg16/near",
        "protocol": (
            f"share of images whose {protocol} is below the {nearest.NEAR_SHARE} quantile of "
            f"{len(real)} real images; floor: {len(others)} other real images"
        ),
        "value": nearest.share_near(generated, real),
        "floor": nearest.share_near(distances(others), real) if len(others) else None,
        "better": "lower",
    }


_METRICS = {"fd_vgg16": _frechet_distance, "nearest_train_vgg16": _nearest_training_images}
