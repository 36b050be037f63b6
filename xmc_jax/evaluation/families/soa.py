"""``soa_c`` and ``soa_i``: whether a detector finds the objects that captions name."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool
from ml_collections import ConfigDict

from xmc_jax.data.overlap import evaluation_data
from xmc_jax.evaluation.features import Features, InputFeatures, Network, on_pixels
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, split_name
from xmc_jax.frozen.detector import load_detector
from xmc_jax.metrics import soa as metric
from xmc_jax.run.records import MetricRecord
from xmc_jax.shapes.accuracy import shuffle_captions

_THRESHOLD = 0.5  # Least score of a box that counts; the paper's, there YOLOv3's objectness.
# For each metric its field of the results, and the mean that it is.
_MEANS = {
    "soa_c": ("by_class", "mean over the classes that captions name"),
    "soa_i": ("by_image", "mean over images"),
}


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return tuple(_MEANS)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    if evaluation_data(config) == "shapes":
        return "captions of shapes name none of COCO's objects"
    if not config.eval.detector:
        return (
            "no detector is named: set config.eval.detector to the folder or the name of a "
            "keras-hub D-FINE trained on COCO, e.g. dfine_medium_coco (evaluate: --set=detector=…)"
        )
    if prompts is not None and not _named(prompts).any():
        return f"none of {len(prompts)} captions names one of COCO's objects"
    return None


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: captions of other images. Ceiling: real images."""
    detector = load_detector(config.eval.detector, field="config.eval.detector")
    apply, name = on_pixels(detector.apply), f"D-FINE {detector.name} (Pillow's bilinear)"
    features = Features(Network(name, apply, detector.params, detector.fingerprint), mesh)
    seed = config.eval.seed

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        scores, named = InputFeatures(features, inputs), _named(inputs.prompts)
        generated, real = (scores.whole(x) >= _THRESHOLD for x in (inputs.generated, inputs.real))
        shuffled = named[shuffle_captions(len(named), seed)]
        value = metric.semantic_object_accuracy(named, generated)
        floor = metric.semantic_object_accuracy(shuffled, generated)
        ceiling = metric.semantic_object_accuracy(named, real)
        low, high = metric.bootstrap_interval(named, generated, seed=seed)
        return [
            inputs.record(
                metric=name,
                protocol=_protocol(mean, detector.name, config),
                value=getattr(value, field),
                low=getattr(low, field),
                high=getattr(high, field),
                floor=getattr(floor, field),
                ceiling=getattr(ceiling, field),
                num_samples=int(named.any(axis=1).sum()),
                classes=value.tally(),
                weights=detector.fingerprint,
                better="higher",
            )
            for name in names
            for field, mean in [_MEANS[name]]
        ]

    return measure


def _named(prompts: Prompts) -> Bool[np.ndarray, "n classes"]:
    return metric.named_classes([prompt.caption for prompt in prompts])


def _protocol(mean: str, detector_name: str, config: ConfigDict) -> str:
    return (
        f"{mean}; own word lists in the form of Hinz et al. 2019, one picture a caption; D-FINE "
        f"{detector_name}, class score >= {_THRESHOLD}, {config.model.resolution} px resized "
        f"linearly; {split_name(config)}, one caption an image drawn with seed "
        f"{config.eval.seed}; ceiling: real images; floor: captions of other images"
    )
