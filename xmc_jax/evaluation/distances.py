"""Comparisons of image sets that are split over processes."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from xmc_jax.evaluation.features import InputFeatures
from xmc_jax.evaluation.image_sets import ImageSet, make_progress
from xmc_jax.metrics import frechet, prdc
from xmc_jax.parallel import processes


def frechet_between(
    one: ImageSet, other: ImageSet, features_of: Callable[[ImageSet], Float[np.ndarray, "own d"]]
) -> float:
    """The Fréchet distance of two sets, equal in all processes; all of them must call it.

    `features_of` gives the features of this process's images of a set.
    """
    if min(len(one), len(other)) <= features_of(one).shape[1]:
        whole = (images.gather(features_of(images)) for images in (one, other))
        return frechet.frechet_distance_of_few(*whole)
    return frechet.frechet_distance(*(global_moments(features_of(x)) for x in (one, other)))


def global_moments(own: Float[np.ndarray, "own d"]) -> frechet.Moments:
    """The moments of the features of all processes, equal in all of them to the last bit."""
    parts = frechet.moments(own)
    count = np.int64(parts.count)
    gathered = [processes.gather(np.asarray(x)) for x in (count, parts.mean, parts.scatter)]
    return frechet.merge(
        frechet.Moments(int(n), mean, scatter) for n, mean, scatter in zip(*gathered, strict=True)
    )


def prdc_to_real(images: ImageSet, rows: InputFeatures) -> prdc.Prdc:
    """How a set lies among the real images, in every process; all of them must call it."""
    features = rows.whole(images), rows.whole(rows.inputs.real)
    total = prdc.num_rows(*map(len, features))
    progress = make_progress(total, name=f"prdc of {images.name} images", unit="neighbourhoods")
    return prdc.prdc(*features, tell=progress.tell)
