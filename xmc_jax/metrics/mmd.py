"""CMMD (Jayasumana et al. 2024): the maximum mean discrepancy of CLIP embeddings, in float64.

``1000 MMD^2`` of unit vectors with the kernel ``exp(-|x - y|^2 / (2 sigma^2))``, sigma 10.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xmc_jax.metrics.prdc import squared_distances

SIGMA = 10.0
SCALE = 1000.0


class Discrepancy(NamedTuple):
    """Two estimates of the squared discrepancy of two distributions.

    Attributes:
      biased: The V-statistic, the published one: means over all pairs, also of a vector with
        itself; >= 0 up to rounding, and 0 for equal sets.
      unbiased: The U-statistic: no vector is paired with itself. Its expectation is 0 for equal
        distributions, so it can be negative.
    """

    biased: float
    unbiased: float


def cmmd(
    generated: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    *,
    tell: Callable[[int], None] = lambda done: None,
) -> Discrepancy:
    """CMMD of two sets of embeddings, which are normalised here; `SCALE` times the estimates.

    Memory is linear in the number of vectors. Arguments and errors as `squared_discrepancy`.
    """
    sets = (np.asarray(x, np.float64) for x in (generated, real))
    units = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in sets)
    found = squared_discrepancy(*units, sigma=SIGMA, tell=tell)
    return Discrepancy(SCALE * found.biased, SCALE * found.unbiased)


def squared_discrepancy(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    *,
    sigma: float,
    tell: Callable[[int], None] = lambda done: None,
) -> Discrepancy:
    """Squared discrepancy of two sets with a Gaussian kernel (Gretton et al. 2012).

    Args:
      x: Vectors of the one distribution.
      y: Vectors of the other; a ValueError if either set has fewer than two.
      sigma: Width of the kernel.
      tell: Called from time to time with the number of kernel rows done, of `num_rows`.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"a discrepancy needs two vectors or more of each set, not {n}, {m}")
    # Centring leaves distances unchanged and reduces their rounding errors.
    centre = np.mean(y, axis=0, dtype=np.float64)
    x, y = np.asarray(x, np.float64) - centre, np.asarray(y, np.float64) - centre

    def sum_kernel(a: np.ndarray, b: np.ndarray, done: int) -> float:
        total = 0.0
        for rows, distances in squared_distances(a, b):
            distances *= -1 / (2 * sigma**2)
            total += float(np.exp(distances, out=distances).sum())
            tell(done + rows.stop)
        return total

    of_x, of_y = sum_kernel(x, x, 0), sum_kernel(y, y, n)
    between = sum_kernel(x, y, n + m) / (n * m)
    return Discrepancy(
        biased=of_x / n**2 + of_y / m**2 - 2 * between,
        # The kernel of a vector with itself is 1.
        unbiased=(of_x - n) / (n * (n - 1)) + (of_y - m) / (m * (m - 1)) - 2 * between,
    )


def num_rows(num_generated: int, num_real: int) -> int:
    """Number of kernel rows that `cmmd` computes: within each set and between the sets."""
    return 2 * num_generated + num_real
