"""``fid``, ``kid``, ``is`` and ``prdc`` with the Inception network that defines their scale.

The number of generated images is part of a name: ``fid30k``. Without the published weights these
metrics are refused: numbers of another network would look like theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict

from xmc_jax.evaluation.distances import frechet_between, prdc_to_real
from xmc_jax.evaluation.features import Features, InputFeatures, Network
from xmc_jax.evaluation.image_sets import ImageSet, make_progress
from xmc_jax.evaluation.inputs import (
    EvalInputs,
    Measure,
    Prompts,
    real_images_protocol,
    reason_too_few,
    short_count,
)
from xmc_jax.frozen import inception
from xmc_jax.frozen.inception_weights import FILE_NAME, InceptionWeights, load_inception_weights
from xmc_jax.metrics import prdc
from xmc_jax.metrics.inception_score import NUM_SPLITS, inception_score
from xmc_jax.metrics.kernel_distance import NUM_SUBSETS, SUBSET_SIZE, kernel_distance
from xmc_jax.run.records import MetricRecord

_PORTS = {
    "pytorch-fid": inception.pytorch_fid_input,
    "torch-fidelity": inception.torch_fidelity_input,
}


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return tuple(kind + short_count(num_prompts) for kind in _KINDS)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    if not config.eval.inception_weights:
        return (
            "it needs the weights of the Inception of 2015, and no other network may stand in: "
            f"name the file {FILE_NAME} in config.eval.inception_weights "
            "(evaluate: --set=inception_weights=PATH)"
        )
    return reason_too_few(_KINDS[_kind(name, config)].min_images, config, prompts)


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: other real images instead of generated ones."""
    kinds = [_kind(name, config) for name in names]
    weights = load_inception_weights(config.eval.inception_weights)
    # No set of ports: its order may differ between processes, which compute features in lockstep.
    ports = dict.fromkeys(_KINDS[kind].port for kind in kinds)
    networks = {port: Features(_network(port, weights), mesh) for port in ports}

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        records = []
        for port, features in networks.items():
            sets = _InceptionFeatures(features, inputs, weights)
            for kind in kinds:
                if _KINDS[kind].port == port:
                    records += _KINDS[kind].measure(sets)
        return records

    return measure


def _kind(name: str, config: ConfigDict) -> str:
    return name.removesuffix(short_count(config.eval.num_examples))


def _network(port: str, weights: InceptionWeights) -> Network:
    def apply(params, pixels: jax.Array) -> jax.Array:
        return inception.Inception().apply(params, _PORTS[port](pixels))

    params = inception.params_from(weights.state)
    return Network(f"inception 2015, {port}", apply, params, weights.fingerprint)


class _InceptionFeatures(InputFeatures):
    """The pooled features that the metrics of one port share, and the records of these metrics."""

    def __init__(self, features: Features, inputs: EvalInputs, weights: InceptionWeights):
        super().__init__(features, inputs)
        self._weights = weights

    def logits(self, images: ImageSet) -> Float[np.ndarray, "n 1008"]:
        """Logits of the classes without the last layer's bias, as the Inception Score uses them."""
        kernel = self._weights.state["fc.weight"].astype(np.float64)
        return self.whole(images).astype(np.float64) @ kernel.T

    def record(
        self, kind: str, protocol: str, better: str, **numbers: float | None
    ) -> MetricRecord:
        """A record; its name has the number of images that were really generated."""
        inputs = self.inputs
        name, slash, part = kind.partition("/")
        return inputs.record(
            metric=f"{name}{short_count(len(inputs.generated))}{slash}{part}",
            protocol=(
                f"{protocol}, Inception 2015 fed as {_KINDS[name].port} does, "
                f"{real_images_protocol(inputs)}"
            ),
            weights=self._weights.fingerprint,
            better=better,
            **numbers,
        )


def _fid(sets: _InceptionFeatures) -> Iterator[MetricRecord]:
    value, floor = sets.compare(lambda x: frechet_between(x, sets.inputs.real, sets.own))
    protocol = "Fréchet distance of 2048 pooled features"
    yield sets.record("fid", protocol, "lower", value=value, floor=floor)


def _kid(sets: _InceptionFeatures) -> Iterator[MetricRecord]:
    def distance(images: ImageSet) -> float:
        features = sets.whole(images), sets.whole(sets.inputs.real)
        progress = make_progress(NUM_SUBSETS, name=f"kid of {images.name} images", unit="subsets")
        return kernel_distance(*features, tell=progress.tell).mean

    value, floor = sets.compare(distance, SUBSET_SIZE)
    protocol = f"unbiased squared MMD, cubic kernel, {NUM_SUBSETS} subsets of {SUBSET_SIZE}"
    yield sets.record("kid", protocol, "lower", value=value, floor=floor)


def _inception_score(sets: _InceptionFeatures) -> Iterator[MetricRecord]:
    score = inception_score(sets.logits(sets.inputs.generated))
    yield sets.record(
        "is",
        f"mean over {NUM_SPLITS} shuffled splits, interval: one standard deviation of these",
        "higher",
        value=score.mean,
        low=score.mean - score.std,
        high=score.mean + score.std,
        ceiling=inception_score(sets.logits(sets.inputs.real)).mean,
    )


def _prdc(sets: _InceptionFeatures) -> Iterator[MetricRecord]:
    found, best = sets.compare(lambda x: prdc_to_real(x, sets), prdc.NUM_NEIGHBOURS + 1)
    protocol = f"balls to the {prdc.NUM_NEIGHBOURS}th neighbour, boundary outside"
    for name, value in found._asdict().items():
        ceiling = best and getattr(best, name)
        yield sets.record(f"prdc/{name}", protocol, "higher", value=value, ceiling=ceiling)


class _Kind(NamedTuple):
    """A kind of metric: the port whose input it takes, how many images it needs, its function."""

    port: str
    min_images: int
    measure: Callable[[_InceptionFeatures], Iterator[MetricRecord]]


_KINDS = {
    "fid": _Kind("pytorch-fid", 2, _fid),
    "kid": _Kind("torch-fidelity", SUBSET_SIZE, _kid),
    "is": _Kind("torch-fidelity", NUM_SPLITS, _inception_score),
    "prdc": _Kind("pytorch-fid", prdc.NUM_NEIGHBOURS + 1, _prdc),
}
