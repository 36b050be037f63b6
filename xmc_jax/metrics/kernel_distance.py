"""Kernel inception distance (Binkowski et al. 2018), in float64 on the host.

The unbiased squared maximum mean discrepancy under the kernel ``(x . y / d + 1)^3``, averaged over
subsets; drawn as torch-fidelity draws them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020


class KernelDistance(NamedTuple):
    """Over the subsets.

    Attributes:
      mean: The estimate; small negative values are right where the sets agree.
      std: Spread of the subsets' values, which is no standard error of the mean.
    """

    mean: float
    std: float


def kernel_distance(
    generated: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    *,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
    tell: Callable[[int], None] = lambda done: None,
) -> KernelDistance:
    """The kernel distance between two sets of features.

    Args:
      generated: Features of one set.
      real: Features of the other.
      num_subsets: How many to average over.
      subset_size: Vectors of each set in one of them, without repetition.
      seed: Of their choice.
      tell: Called with how many subsets are done, after each.

    Raises:
      ValueError: a set is smaller than a subset.
    """
    x, y = (np.asarray(features, np.float64) for features in (generated, real))
    if min(len(x), len(y)) < subset_size:
        raise ValueError(f"subsets of {subset_size} need as many vectors, not {len(x)}, {len(y)}")
    rng = np.random.RandomState(seed)  # One stream: first of the one set, then of the other.
    values = []
    for index in range(num_subsets):
        a = x[rng.choice(len(x), subset_size, replace=False)]
        b = y[rng.choice(len(y), subset_size, replace=False)]
        values.append(squared_mmd(a, b))
        tell(index + 1)
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def squared_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    """The unbiased estimate from two sets of equal size, float64."""
    n, d = x.shape
    within = 0.0
    for z in (x, y):
        kernel = (z @ z.T / d + 1) ** 3
        within += kernel.sum() - np.trace(kernel)
    between = np.sum((x @ y.T / d + 1) ** 3)
    return float(within / (n * (n - 1)) - 2 * between / n**2)
