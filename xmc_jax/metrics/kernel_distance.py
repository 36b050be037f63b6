"""Kernel inception distance (Binkowski et al. 2018), in float64 on the host.

The unbiased squared maximum mean discrepancy with the kernel ``(x . y / d + 1)^3``, averaged over
random subsets, which are sampled as in torch-fidelity.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
_SEED = 2020  # Of torch-fidelity.


class KernelDistance(NamedTuple):
    """Statistics of the values of the subsets.

    Attributes:
      mean: The estimate. It can be slightly negative if the distributions agree.
      std: Standard deviation; not the standard error of the mean.
    """

    mean: float
    std: float


def kernel_distance(
    generated: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    *,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    tell: Callable[[int], None] = lambda done: None,
) -> KernelDistance:
    """Kernel distance between two sets of features; a ValueError if one is smaller than a subset.

    Args:
      generated: Features of generated images.
      real: Features of real images.
      num_subsets: Number of subsets to average over.
      subset_size: Number of vectors in a subset, sampled without replacement.
      tell: Called after each subset with the number of subsets done.
    """
    x, y = (np.asarray(features, np.float64) for features in (generated, real))
    if min(len(x), len(y)) < subset_size:
        raise ValueError(f"subsets of {subset_size} need as many vectors, not {len(x)}, {len(y)}")
    rng = np.random.RandomState(_SEED)  # One stream for both sets, as in torch-fidelity.
    values = []
    for index in range(num_subsets):
        a = x[rng.choice(len(x), subset_size, replace=False)]
        b = y[rng.choice(len(y), subset_size, replace=False)]
        values.append(squared_mmd(a, b))
        tell(index + 1)
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def squared_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    """Unbiased estimate of the squared discrepancy from two sets of equal size."""
    n, d = x.shape
    within = 0.0
    for z in (x, y):
        kernel = (z @ z.T / d + 1) ** 3
        within += kernel.sum() - np.trace(kernel)
    between = np.sum((x @ y.T / d + 1) ** 3)
    return float(within / (n * (n - 1)) - 2 * between / n**2)
