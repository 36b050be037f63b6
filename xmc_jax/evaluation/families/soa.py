"""``soa_c`` and ``soa_i``: are the objects that captions name seen in the drawn pictures?"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from xmc_jax import images
from xmc_jax.evaluation.features import Features, Network
from xmc_jax.evaluation.inputs import Material, Prompt, Record, split_name
from xmc_jax.experiment import Experiment
from xmc_jax.metrics import soa as metric
from xmc_jax.run.config_checks import evaluation_data
from xmc_jax.shapes.accuracy import shuffle_captions

_THRESHOLD = 0.5  # Score of a box that counts; the paper's, there of YOLOv3's objectness.


def names(num_prompts: int) -> tuple[str, ...]:
    """The metrics of this family."""
    return ("soa_c", "soa_i")


def reason_unavailable(
    name: str, config: ConfigDict, prompts: Sequence[Prompt] | None = None
) -> str | None:
    """Why a metric cannot judge a run; None if it can, as far as prompts, if given, tell."""
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


def make_measure(
    experiment: Experiment, names: Sequence[str]
) -> Callable[[Material], list[Record]]:
    """Semantic object accuracy; floor: captions of other images; ceiling: real images."""
    # Keras takes seconds to import: nobody waits for it who does not ask for these metrics.
    from xmc_jax.frozen.detector import load_detector

    detector = load_detector(experiment.config.eval.detector, field="config.eval.detector")
    features = Features(_network(detector), experiment.mesh)

    def measure(material: Material) -> list[Record]:
        named = _named(material.prompts)
        drawn, real = (
            pictures.gather(features(pictures, material.scratch, keep=keep)) >= _THRESHOLD
            for pictures, keep in ((material.drawn, False), (material.real, True))
        )
        seed = material.config.eval.seed
        shuffled = named[shuffle_captions(len(named), seed)]
        value, floor, ceiling = (
            metric.semantic_object_accuracy(asked, seen)
            for asked, seen in ((named, drawn), (shuffled, drawn), (named, real))
        )
        low, high = metric.bootstrap_interval(named, drawn, seed=seed)
        return [
            {
                "metric": name,
                "protocol": _protocol(name, detector.name, material.config),
                "value": getattr(value, field),
                "low": getattr(low, field),
                "high": getattr(high, field),
                "floor": getattr(floor, field),
                "ceiling": getattr(ceiling, field),
                "num_samples": int(named.any(axis=1).sum()),
                "classes": value.tally(),
                "weights": detector.fingerprint,
                "better": "higher",
            }
            for name in names
            for field in [{"soa_c": "by_class", "soa_i": "by_image"}[name]]
        ]

    return measure


def _named(prompts: Sequence[Prompt]) -> Bool[np.ndarray, "n classes"]:
    return metric.named_classes([prompt.caption for prompt in prompts])


def _protocol(name: str, judge: str, config: ConfigDict) -> str:
    mean = {"soa_c": "mean over the classes that captions name", "soa_i": "mean over images"}[name]
    return (
        f"{mean}; own word lists in the form of Hinz et al. 2019, one picture a caption; D-FINE "
        f"{judge}, class score >= {_THRESHOLD}, {config.model.resolution} px resized linearly; "
        f"{split_name(config)}, one caption an image drawn with seed {config.eval.seed}; ceiling: "
        "real images; floor: captions of other images"
    )


def _network(detector) -> Network:
    def apply(params, pixels: jax.Array) -> jax.Array:
        return detector.apply(params, images.from_uint8(pixels))

    return Network(f"D-FINE {detector.name}", apply, detector.params, detector.fingerprint)
