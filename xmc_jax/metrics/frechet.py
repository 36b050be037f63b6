"""Fréchet distance between feature distributions, in float64 on the host.

``|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))`` with unbiased covariances (Heusel et al.
2017). NumPy alone: scipy's matrix square root is slower, less exact for few samples, and changed
its interface.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Moments(NamedTuple):
    """Count, mean and centred second moment of feature vectors, mergeable in any order.

    Attributes:
      count: Number of vectors.
      mean: Their mean, float64.
      scatter: Sum of outer products of their deviations from the mean, float64.
    """

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Unbiased covariance.

        Raises:
          ValueError: there are fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two vectors or more, not {self.count}")
        return self.scatter / (self.count - 1)


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
    """The moments of a batch; an empty one is allowed."""
    x = np.asarray(features, np.float64)
    if not len(x):
        return Moments(0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2))
    mean = x.mean(axis=0)
    centred = x - mean
    return Moments(len(x), mean, centred.T @ centred)


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of the union of several sets (Chan et al. 1979); empty ones do not count.

    Raises:
      ValueError: there is nothing to merge.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("no moments to merge")
    total = parts[0]
    for part in parts[1:]:
        count = total.count + part.count
        if not part.count or not total.count:
            total = part if part.count else total
            continue
        shift = part.mean - total.mean
        total = Moments(
            count,
            total.mean + shift * (part.count / count),
            total.scatter
            + part.scatter
            + np.outer(shift, shift) * (total.count * part.count / count),
        )
    return total


def frechet_distance(one: Moments, other: Moments) -> float:
    """The Fréchet distance between two sets of features.

    The trace of the root of ``S1 S2`` is that of the symmetric ``R S2 R`` with ``R = S1^(1/2)``.
    Eigenvalues within rounding of zero are dropped before roots are taken: each would add the
    root of its rounding error, which is how plain formulas lose half their digits when there are
    fewer vectors than dimensions.

    Returns:
      The squared distance, >= 0 but for rounding.

    Raises:
      ValueError: a set has fewer than two vectors, or a feature was infinite or not a number.
    """
    for part in (one, other):
        # Left alone, eigh ends with a LinAlgError that does not say why.
        if not np.all(np.isfinite(part.scatter)) or not np.all(np.isfinite(part.mean)):
            raise ValueError("features hold infinities or NaN")
    covariance_1, covariance_2 = one.covariance, other.covariance
    values, vectors = np.linalg.eigh(covariance_1)
    kept = values > _rounding(values)
    root = vectors[:, kept] * np.sqrt(values[kept])
    # Eigenvalues of root^T S2 root are those of R S2 R without its null space.
    values = np.linalg.eigvalsh(root.T @ covariance_2 @ root) if kept.any() else np.zeros(1)
    trace_of_root = np.sum(np.sqrt(values[values > _rounding(values)]))
    shift = one.mean - other.mean
    traces = np.trace(covariance_1) + np.trace(covariance_2)
    return float(shift @ shift + traces - 2 * trace_of_root)


def frechet_distance_of_few(
    one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]
) -> float:
    """The same distance from the features themselves, exact where they are few.

    With A and B the centred features over ``sqrt(n - 1)``, the trace of the root is the sum of the
    singular values of ``A B^T``: nothing is squared, so no digits are lost to covariances without
    full rank, and no matrix is larger than n x m.

    Raises:
      ValueError: see `frechet_distance`.
    """
    factors, means = [], []
    for features in (one, other):
        x = np.asarray(features, np.float64)
        if len(x) < 2:
            raise ValueError(f"a covariance needs two vectors or more, not {len(x)}")
        if not np.all(np.isfinite(x)):
            raise ValueError("features hold infinities or NaN")
        means.append(x.mean(axis=0))
        factors.append((x - means[-1]) / np.sqrt(len(x) - 1))
    a, b = factors
    shift = means[0] - means[1]
    trace_of_root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(shift @ shift + np.sum(a * a) + np.sum(b * b) - 2 * trace_of_root)


def _rounding(values: Float[np.ndarray, " d"]) -> float:
    return float(max(values.max(), 0.0) * len(values) * np.finfo(np.float64).eps)
