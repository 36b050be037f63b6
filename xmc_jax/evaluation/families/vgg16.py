"""Distances between the distributions of drawn and of real pictures' features."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from xmc_jax import images
from xmc_jax.evaluation.features import Features, Network
from xmc_jax.evaluation.image_sets import Pictures
from xmc_jax.evaluation.inputs import Material, Prompt, Record, split_name
from xmc_jax.experiment import Experiment
from xmc_jax.frozen.image_features import PACKAGED, load_image_features
from xmc_jax.metrics import frechet
from xmc_jax.parallel import processes

_VGG_RESOLUTION = 64  # Pixels; VGG-16 halves them five times.


def names(num_prompts: int) -> tuple[str, ...]:
    """The metrics of this family."""
    return ("fd_vgg16",)


def reason_unavailable(
    name: str, config: ConfigDict, prompts: Sequence[Prompt] | None = None
) -> str | None:
    """Why a metric cannot judge a run; None if it can, as far as prompts, if given, tell."""
    if config.loss.image_pretrained_weight and config.loss.image_pretrained_network == "vgg16":
        return "the run was trained against VGG-16's own features"
    return None


def make_measure(
    experiment: Experiment, names: Sequence[str]
) -> Callable[[Material], list[Record]]:
    """Fréchet distance in VGG-16's features; floor: two disjoint sets of real images."""
    features = Features(_load_vgg16(), experiment.mesh)

    def measure(material: Material) -> list[Record]:
        real, others, drawn = material.real, material.others, material.drawn

        @functools.cache
        def rows_of(pictures: Pictures) -> Float[np.ndarray, "own d"]:
            return features(pictures, material.scratch, keep=pictures is not drawn)

        return [
            {
                "metric": "fd_vgg16",
                "protocol": (
                    f"Fréchet distance, pooled conv5 features of VGG-16 at {_VGG_RESOLUTION} px, "
                    f"{split_name(material.config)}; floor: {len(others)} other real images"
                ),
                "value": frechet_between(drawn, real, rows_of),
                "floor": frechet_between(others, real, rows_of) if len(others) > 1 else None,
                "ceiling": None,
                "weights": features.network.fingerprint,
                "better": "lower",
            }
        ]

    return measure


def frechet_between(
    one: Pictures, other: Pictures, rows_of: Callable[[Pictures], Float[np.ndarray, "own d"]]
) -> float:
    """The Fréchet distance of two sets; all processes must call it, and have the same number.

    Args:
      one: A set.
      other: Another.
      rows_of: Features of this process's share of a set.
    """
    if min(len(one), len(other)) <= rows_of(one).shape[1]:
        return frechet.frechet_distance_of_few(*(p.gather(rows_of(p)) for p in (one, other)))
    return frechet.frechet_distance(*(_moments(rows_of(p)) for p in (one, other)))


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
