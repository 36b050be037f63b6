"""Distances to nearest neighbours in another set: do generated images copy training images?"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from xmc_jax.metrics.prdc import squared_distances

NEAR_SHARE = 0.05  # Of held-out real images count as near to a training image.


def nearest_distances(
    x: Float[np.ndarray, "n d"],
    others: Float[np.ndarray, "m d"],
    *,
    tell: Callable[[int], None] = lambda done: None,
) -> Float[np.ndarray, " n"]:
    """Euclidean distance of each vector to the nearest of the others, in float64.

    Memory is linear in the number of vectors.

    Args:
      x: Features of the images in question.
      others: Features of the images among which the nearest one is searched.
      tell: Called from time to time with the number of vectors done.
    """
    # Centring leaves distances unchanged and reduces their rounding errors.
    centre = np.mean(others, axis=0, dtype=np.float64)
    x, others = np.asarray(x, np.float64) - centre, np.asarray(others, np.float64) - centre
    nearest = np.empty(len(x))
    for rows, squares in squared_distances(x, others):
        nearest[rows] = np.sqrt(squares.min(axis=1))
        tell(rows.stop)
    return nearest


def share_near(distances: Float[np.ndarray, " n"], held_out: Float[np.ndarray, " m"]) -> float:
    """Share of images that are nearer to a training image than most held-out real ones.

    Args:
      distances: From `nearest_distances`, of the images in question to the training images.
      held_out: Likewise of held-out real images; their `NEAR_SHARE` quantile, interpolated, is the
        distance below which an image counts.
    """
    return float(np.mean(distances < np.quantile(held_out, NEAR_SHARE)))
