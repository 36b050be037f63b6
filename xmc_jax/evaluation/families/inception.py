"""``fid``, ``kid``, ``is`` and ``prdc`` with the Inception network that defines their scale.

The number of generated images is part of a name: ``fid30k``. Without the published weights these
metrics are refused: numbers of another network would look like theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict

from xmc_jax.evaluation.distances import frechet_between
from xmc_jax.evaluation.features import Features, InputFeatures, Network
from xmc_jax.evaluation.image_sets import ImageSet, make_progress
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, short_count, split_name
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
    needed = _KINDS[_kind(name, config)].min_images
    if config.eval.num_examples < needed:
        return f"it needs config.eval.num_examples of {needed} or more"
    if prompts is not None and len(prompts) < needed:
        return f"it needs {needed} prompts, and {split_name(config)} has {len(prompts)}"
    return None


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

    def compare(self, kind: str, function: Callable[[ImageSet], Any]) -> tuple[Any, Any]:
        """A function of the generated images and of the other real ones; None if these are few."""
        sets, least = (self.inputs.generated, self.inputs.other_real), _KINDS[kind].min_images
        return tuple(function(images) if len(images) >= least else None for images in sets)

    def record(
        self, kind: str, protocol: str, better: str, **numbers: float | None
    ) -> MetricRecord:
        """A record; its name has the number of images that were really generated."""
        inputs, config = self.inputs, self.inputs.config
        name, slash, part = kind.partition("/")
        return inputs.record(
            metric=f"{name}{short_count(len(inputs.generated))}{slash}{part}",
            protocol=(
                f"{protocol}, Inception 2015 fed as {_KINDS[name].port} does, "
                f"{split_name(config)} at {config.model.resolution} px ({config.data.form}, "
                f"{config.data.crop}), {len(inputs.real)} real images; floor: "
                f"{len(inputs.other_real)} others for drawn"
            ),
            weights=self._weights.fingerprint,
            better=better,
            **numbers,
        )


def _fid(sets: _InceptionFeatures) -> Iterator[MetricRecord]:
    value, floor = sets.compare("fid", lambda x: frechet_between(x, sets.inputs.real, sets.own))
    protocol = "Fréchet distance of 2048 pooled features"
    yield sets.record("fid", protocol, "lower", value=value, floor=floor)


def _kid(sets: _InceptionFeatures) -> Iterator[MetricRecord]:
    def distance(images: ImageSet) -> float:
        features = sets.whole(images), sets.whole(sets.inputs.real)
        progress = make_progress(NUM_SUBSETS, name=f"kid of {images.name} images", unit="subsets")
        return kernel_distance(*features, tell=progress.tell).mean

    value, floor = sets.compare("kid", distance)
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
    def compare(images: ImageSet) -> prdc.Prdc:
        features = sets.whole(images), sets.whole(sets.inputs.real)
        total = prdc.num_rows(*map(len, features))
        progress = make_progress(total, name=f"prdc of {images.name} images", unit="neighbourhoods")
        return prdc.prdc(*features, tell=progress.tell)

    found, best = sets.compare("prdc", compare)
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
