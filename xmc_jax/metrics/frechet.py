"""Fréchet distance between feature distributions, in float64 on the host.

``|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))`` with unbiased covariances (Heusel et al.
2017). NumPy alone: scipy's matrix square root is slower, less exact for few samples, and its
interface has changed.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Moments(NamedTuple):
    """Number, mean and scatter of vectors, in float64; can be merged in any order.

    The scatter is the sum of the outer products of the deviations from the mean.
    """

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Unbiased covariance; a ValueError if there are fewer than two vectors."""
        _check_count(self.count)
        return self.scatter / (self.count - 1)


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
    """Moments of a batch, which may be empty."""
    x = np.asarray(features, np.float64)
    if not len(x):
        return Moments(0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2))
    mean = x.mean(axis=0)
    centred = x - mean
    return Moments(len(x), mean, centred.T @ centred)


def merge(parts: Iterable[Moments]) -> Moments:
    """Moments of a union of sets (Chan et al. 1979), each maybe empty; ValueError if none."""
    parts = list(parts)
    if not parts:
        raise ValueError("no moments to merge")
    total, *others = [part for part in parts if part.count] or parts[:1]
    for part in others:
        count, shift = total.count + part.count, part.mean - total.mean
        mean = total.mean + shift * (part.count / count)
        between = np.outer(shift, shift) * (total.count * part.count / count)
        total = Moments(count, mean, total.scatter + part.scatter + between)
    return total


def frechet_distance(one: Moments, other: Moments) -> float:
    """Fréchet distance between two sets of features: the squared distance, >= 0 up to rounding.

    The trace of the root of ``S1 S2`` equals that of the symmetric ``R S2 R`` with
    ``R = S1^(1/2)``. Eigenvalues within rounding of zero are dropped before taking roots: each
    would add the root of its rounding error, which costs plain formulas half of their digits if
    there are fewer vectors than dimensions.

    Raises:
      ValueError: A set has fewer than two vectors, or a feature is infinite or NaN.
    """
    # Otherwise eigh fails with a LinAlgError that does not name the cause.
    _check_finite(one.mean, one.scatter, other.mean, other.scatter)
    covariance_1, covariance_2 = one.covariance, other.covariance
    values, vectors = np.linalg.eigh(covariance_1)
    kept = values > _rounding(values)
    root = vectors[:, kept] * np.sqrt(values[kept])
    # root^T S2 root has the eigenvalues of R S2 R without its null space.
    values = np.linalg.eigvalsh(root.T @ covariance_2 @ root) if kept.any() else np.zeros(1)
    trace_of_root = np.sum(np.sqrt(values[values > _rounding(values)]))
    shift = one.mean - other.mean
    traces = np.trace(covariance_1) + np.trace(covariance_2)
    return float(shift @ shift + traces - 2 * trace_of_root)


def frechet_distance_of_few(
    one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]
) -> float:
    """The same distance from the features themselves, exact if they are few.

    With A and B the centred features divided by ``sqrt(n - 1)``, the trace of the root is the sum
    of the singular values of ``A B^T``. Nothing is squared, so covariances without full rank lose
    no digits, and no matrix is larger than n x m.

    Raises:
      ValueError: See `frechet_distance`.
    """
    factors, means = [], []
    for features in (one, other):
        x = np.asarray(features, np.float64)
        _check_count(len(x))
        _check_finite(x)
        means.append(x.mean(axis=0))
        factors.append((x - means[-1]) / np.sqrt(len(x) - 1))
    a, b = factors
    shift = means[0] - means[1]
    trace_of_root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(shift @ shift + np.sum(a * a) + np.sum(b * b) - 2 * trace_of_root)


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"a covariance needs two vectors or more, not {count}")


def _check_finite(*arrays: np.ndarray) -> None:
    if not all(np.all(np.isfinite(x)) for x in arrays):
        raise ValueError("features hold infinities or NaN")


def _rounding(values: Float[np.ndarray, " d"]) -> float:
    """Bound of the rounding errors of eigenvalues."""
    return float(max(values.max(), 0.0) * len(values) * np.finfo(np.float64).eps)
