"""``fid``, ``kid``, ``is`` and ``prdc`` with the Inception network that gives them their scale.

Each has its number of pictures in its name: ``fid30k``. Without the published weights they are
refused: another network's numbers would look like them.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from xmc_jax.console import Progress
from xmc_jax.evaluation.families.vgg16 import frechet_between
from xmc_jax.evaluation.features import Features, Network
from xmc_jax.evaluation.image_sets import Pictures
from xmc_jax.evaluation.inputs import Material, Prompt, Record, short_count, split_name
from xmc_jax.experiment import Experiment
from xmc_jax.frozen import inception
from xmc_jax.frozen.inception_weights import FILE_NAME, InceptionWeights, load_inception_weights
from xmc_jax.metrics import prdc
from xmc_jax.metrics.inception_score import NUM_SPLITS, inception_score
from xmc_jax.metrics.kernel_distance import NUM_SUBSETS, SUBSET_SIZE, kernel_distance
from xmc_jax.parallel import processes

# What each metric is, which port's input it has, and how many pictures it needs.
_INPUTS = {
    "fid": "pytorch-fid",
    "kid": "torch-fidelity",
    "is": "torch-fidelity",
    "prdc": "pytorch-fid",
}
_MIN_EXAMPLES = {
    "fid": 2,
    "kid": SUBSET_SIZE,
    "is": NUM_SPLITS,
    "prdc": prdc.NUM_NEIGHBOURS + 1,
}


def names(num_prompts: int) -> tuple[str, ...]:
    """The metrics of this family."""
    return tuple(kind + short_count(num_prompts) for kind in _INPUTS)


def reason_unavailable(
    name: str, config: ConfigDict, prompts: Sequence[Prompt] | None = None
) -> str | None:
    """Why a metric cannot judge a run; None if it can, as far as prompts, if given, tell."""
    if not config.eval.inception_weights:
        return (
            "it needs the weights of the Inception of 2015, and no other network may stand in: "
            f"name the file {FILE_NAME} in config.eval.inception_weights "
            "(evaluate: --set=inception_weights=PATH)"
        )
    needed = _MIN_EXAMPLES[_kind(name, config)]
    if config.eval.num_examples < needed:
        return f"it needs config.eval.num_examples of {needed} or more"
    if prompts is not None and len(prompts) < needed:
        return f"it needs {needed} prompts, and {split_name(config)} has {len(prompts)}"
    return None


def make_measure(
    experiment: Experiment, names: Sequence[str]
) -> Callable[[Material], list[Record]]:
    """The chosen metrics; floors are those of other real pictures in place of drawn ones."""
    kinds = [_kind(name, experiment.config) for name in names]
    weights = load_inception_weights(experiment.config.eval.inception_weights)
    networks = {
        port: Features(_network(port, weights), experiment.mesh)
        for port in {_INPUTS[kind] for kind in kinds}
    }
    functions = {"fid": _fid, "kid": _kid, "is": _inception_score, "prdc": _prdc}

    def measure(material: Material) -> list[Record]:
        records = []
        for port, features in networks.items():
            sets = _Sets(material, features, weights)
            for kind in kinds:
                if _INPUTS[kind] == port:
                    records += functions[kind](sets)
        return [record | {"weights": weights.fingerprint} for record in records]

    return measure


def _kind(name: str, config: ConfigDict) -> str:
    return name.removesuffix(short_count(config.eval.num_examples))


def _network(port: str, weights: InceptionWeights) -> Network:
    feed = {
        "pytorch-fid": inception.pytorch_fid_input,
        "torch-fidelity": inception.torch_fidelity_input,
    }[port]

    def apply(params, pixels: jax.Array) -> jax.Array:
        return inception.Inception().apply(params, feed(pixels))

    params = inception.params_from(weights.state)
    return Network(f"inception 2015, {port}", apply, params, weights.fingerprint)


class _Sets:
    """The features that a port's metrics share, computed when the first of them asks."""

    def __init__(self, material: Material, features: Features, weights: InceptionWeights):
        self.material, self.features, self._weights = material, features, weights
        self._own: dict[str, np.ndarray] = {}

    def own(self, pictures: Pictures) -> Float[np.ndarray, "own 2048"]:
        """This process's rows."""
        if pictures.name not in self._own:
            keep = pictures is not self.material.drawn
            self._own[pictures.name] = self.features(pictures, self.material.scratch, keep=keep)
        return self._own[pictures.name]

    def whole(self, pictures: Pictures) -> Float[np.ndarray, "n 2048"]:
        """The rows of all processes."""
        return pictures.gather(self.own(pictures))

    def logits(self, pictures: Pictures) -> Float[np.ndarray, "n 1008"]:
        """Of the classes, without the last layer's bias, as the score has them."""
        kernel = self._weights.state["fc.weight"].astype(np.float64)
        return self.whole(pictures).astype(np.float64) @ kernel.T

    def record(self, kind: str, protocol: str, better: str, **numbers: float | None) -> Record:
        """A record; the name has the number of pictures that there really are."""
        material = self.material
        name, _, part = kind.partition("/")
        where = f"{split_name(material.config)} at {material.config.model.resolution} px"
        return {
            "metric": name + short_count(len(material.drawn)) + (f"/{part}" if part else ""),
            "protocol": (
                f"{protocol}, Inception 2015 fed as {_INPUTS[name]} does, {where} "
                f"({material.config.data.form}, {material.config.data.crop}), "
                f"{len(material.real)} real images; floor: {len(material.others)} others for drawn"
            ),
            "floor": None,
            "ceiling": None,
            "better": better,
        } | numbers


def _fid(sets: _Sets) -> list[Record]:
    real, others, drawn = _of(sets)
    return [
        sets.record(
            "fid",
            "Fréchet distance of 2048 pooled features",
            "lower",
            value=frechet_between(drawn, real, sets.own),
            floor=frechet_between(others, real, sets.own) if len(others) > 1 else None,
        )
    ]


def _kid(sets: _Sets) -> list[Record]:
    real, others, drawn = _of(sets)

    def distance(pictures: Pictures) -> float:
        features = sets.whole(pictures), sets.whole(real)
        tell = _teller(NUM_SUBSETS, "kid", pictures, "subsets")
        return kernel_distance(*features, tell=tell).mean

    floor = distance(others) if len(others) >= SUBSET_SIZE else None
    value = distance(drawn)
    protocol = f"unbiased squared MMD, cubic kernel, {NUM_SUBSETS} subsets of {SUBSET_SIZE}"
    return [sets.record("kid", protocol, "lower", value=value, floor=floor)]


def _inception_score(sets: _Sets) -> list[Record]:
    real, _, drawn = _of(sets)
    score = inception_score(sets.logits(drawn))
    return [
        sets.record(
            "is",
            f"mean over {NUM_SPLITS} shuffled splits, interval: one standard deviation of these",
            "higher",
            value=score.mean,
            low=score.mean - score.std,
            high=score.mean + score.std,
            ceiling=inception_score(sets.logits(real)).mean,
        )
    ]


def _prdc(sets: _Sets) -> list[Record]:
    real, others, drawn = _of(sets)

    def compare(pictures: Pictures) -> prdc.Prdc:
        features = sets.whole(pictures), sets.whole(real)
        total = prdc.num_rows(*map(len, features))
        tell = _teller(total, "prdc", pictures, "neighbourhoods")
        return prdc.prdc(*features, tell=tell)

    found = compare(drawn)
    best = compare(others) if len(others) > prdc.NUM_NEIGHBOURS else None
    protocol = f"balls to the {prdc.NUM_NEIGHBOURS}th neighbour, boundary outside"
    return [
        sets.record(
            f"prdc/{name}",
            protocol,
            "higher",
            value=getattr(found, name),
            ceiling=best and getattr(best, name),
        )
        for name in found._fields
    ]


def _teller(total: int, kind: str, pictures: Pictures, unit: str) -> Callable[[int], None]:
    """Progress of what all processes compute alike, told by the first."""
    name = f"{kind} of {pictures.name} pictures"
    return Progress(total, name=name, unit=unit, silent=not processes.is_first()).tell


def _of(sets: _Sets) -> tuple[Pictures, Pictures, Pictures]:
    return sets.material.real, sets.material.others, sets.material.drawn
