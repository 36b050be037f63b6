"""Distances between the distributions of drawn and of real pictures' features."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from xmc_jax import images, processes
from xmc_jax.evaluation.features import Features, Network
from xmc_jax.evaluation.material import Material, Record, split_name
from xmc_jax.experiment import Experiment
from xmc_jax.frozen.image_features import PACKAGED, load_image_features
from xmc_jax.metrics import frechet

_VGG_RESOLUTION = 64  # Pixels; VGG-16 halves them five times.


def names(config: ConfigDict) -> tuple[str, ...]:
    """The metrics of this family."""
    return ("fd_vgg16",)


def why_unfit(name: str, config: ConfigDict) -> str | None:
    """Why a metric cannot judge a run; None if it can."""
    if config.loss.image_pretrained_weight and config.loss.image_pretrained_network == "vgg16":
        return "the run was trained against VGG-16's own features"
    return None


def make_measure(
    experiment: Experiment, names: Sequence[str]
) -> Callable[[Material], list[Record]]:
    """Fréchet distance in VGG-16's features; floor: two disjoint sets of real images."""
    features = Features(_load_vgg16(), experiment.mesh)

    def measure(material: Material) -> list[Record]:
        reference = _moments(features(material.real, material.scratch, keep=True))
        others = _moments(features(material.others, material.scratch, keep=True))
        drawn = _moments(features(material.drawn, material.scratch, keep=False))
        floor = frechet.frechet_distance(others, reference) if others.count > 1 else None
        return [
            {
                "metric": "fd_vgg16",
                "protocol": (
                    f"Fréchet distance, pooled conv5 features of VGG-16 at {_VGG_RESOLUTION} px, "
                    f"{split_name(material.config)}; floor: {len(material.others)} other real ones"
                ),
                "value": frechet.frechet_distance(drawn, reference),
                "floor": floor,
                "ceiling": None,
                "weights": features.network.fingerprint,
                "better": "lower",
            }
        ]

    return measure


def _load_vgg16() -> Network:
    network = load_image_features("vgg16", PACKAGED, _VGG_RESOLUTION)

    def apply(params, pixels: jax.Array) -> jax.Array:
        return network.apply(params, images.from_uint8(pixels))

    return Network(f"vgg16 at {_VGG_RESOLUTION} px", apply, network.params, network.fingerprint)


def _moments(own: Float[np.ndarray, "own d"]) -> frechet.Moments:
    """The moments of all processes' features, equal in all to the last bit."""
    parts = frechet.moments(own)
    count = np.int64(parts.count)
    gathered = [processes.gather(np.asarray(x)) for x in (count, parts.mean, parts.scatter)]
    return frechet.merge(
        frechet.Moments(int(n), mean, scatter) for n, mean, scatter in zip(*gathered, strict=True)
    )
