"""``fd_dinov2`` and ``prdc_dinov2``: image sets in features of DINOv2 (Stein et al. 2023).

Human judgements agree better with them than with those in features of Inception.
"""

from collections.abc import Iterator, Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from xmc_jax.evaluation.distances import frechet_between, prdc_to_real
from xmc_jax.evaluation.features import Features, InputFeatures, Network, on_pixels
from xmc_jax.evaluation.inputs import (
    EvalInputs,
    Measure,
    Prompts,
    real_images_protocol,
    reason_too_few,
)
from xmc_jax.frozen.dinov2 import SIDE, load_dinov2
from xmc_jax.metrics.prdc import NUM_NEIGHBOURS
from xmc_jax.run.records import MetricRecord

_MIN_IMAGES = {"fd_dinov2": 2, "prdc_dinov2": NUM_NEIGHBOURS + 1}


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return tuple(_MIN_IMAGES)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    if not config.eval.dinov2:
        return (
            "no DINOv2 is named: set config.eval.dinov2 to the folder or the name of a keras-hub "
            "preset; published numbers have dinov2_large (evaluate: --set=dinov2=…)"
        )
    return reason_too_few(_MIN_IMAGES[name], config, prompts)


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor and ceiling: other real images instead of generated ones."""
    dinov2 = load_dinov2(config.eval.dinov2, field="config.eval.dinov2")
    apply, title = on_pixels(dinov2.apply), f"DINOv2 {dinov2.name} at {SIDE} px"
    features = Features(Network(title, apply, dinov2.params, dinov2.fingerprint), mesh)

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        rows = InputFeatures(features, inputs)
        about = f"class tokens of {title}, bicubic as in dgm-eval, {real_images_protocol(inputs)}"
        return [
            inputs.record(**fields, protocol=f"{how}, {about}", weights=dinov2.fingerprint)
            for name in names
            for how, fields in _MEASURES[name](rows)
        ]

    return measure


def _frechet_distance(rows: InputFeatures) -> Iterator[tuple[str, dict]]:
    """How it is measured, and the fields of the record."""
    value, floor = rows.compare(lambda x: frechet_between(x, rows.inputs.real, rows.own))
    fields = {"metric": "fd_dinov2", "value": value, "floor": floor, "better": "lower"}
    yield "Fréchet distance", fields


def _prdc(rows: InputFeatures) -> Iterator[tuple[str, dict]]:
    """How it is measured, and the fields of the records."""
    found, best = rows.compare(lambda x: prdc_to_real(x, rows), _MIN_IMAGES["prdc_dinov2"])
    for part, value in found._asdict().items():
        ceiling = best and getattr(best, part)
        fields = {"metric": f"prdc_dinov2/{part}", "value": value, "ceiling": ceiling}
        yield f"balls to the {NUM_NEIGHBOURS}th neighbour", fields | {"better": "higher"}


_MEASURES = {"fd_dinov2": _frechet_distance, "prdc_dinov2": _prdc}
