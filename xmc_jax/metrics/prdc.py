"""Precision, recall, density and coverage by nearest neighbours, in float64 on the host.

Kynkäänniemi et al. 2019, Naeem et al. 2020. The ball around a vector extends to its k-th nearest
neighbour in its own set; vectors on its surface are outside.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NUM_NEIGHBOURS = 5
_ROWS = 512  # Rows of a distance matrix in memory at a time.
_ROUNDING = 1e-12  # Rounding error of a squared distance, relative to its terms.


class Prdc(NamedTuple):
    """How the vectors of one set lie in the balls around those of the other.

    Attributes:
      precision: Fraction of generated vectors inside a ball of a real vector.
      recall: Fraction of real vectors inside a ball of a generated vector.
      density: Mean number of real balls around a generated vector, divided by k; can exceed 1.
      coverage: Fraction of real balls that contain a generated vector.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    generated: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    *,
    num_neighbours: int = NUM_NEIGHBOURS,
    tell: Callable[[int], None] = lambda done: None,
) -> Prdc:
    """Precision, recall, density and coverage. Memory is linear in the number of vectors.

    Args:
      generated: Features of generated images.
      real: Features of real images.
      num_neighbours: k, the neighbour that a ball extends to; a ValueError if a set has none.
      tell: Called from time to time with the number of distance rows done, of `num_rows`.
    """
    if min(len(generated), len(real)) <= num_neighbours:
        raise ValueError(
            f"{num_neighbours} neighbours need more vectors than {len(generated)}, {len(real)}"
        )
    # Centring leaves distances unchanged and reduces their rounding errors.
    centre = np.mean(real, axis=0, dtype=np.float64)
    x, y = np.asarray(generated, np.float64) - centre, np.asarray(real, np.float64) - centre
    x_radii = _radii(x, num_neighbours, tell)
    y_radii = _radii(y, num_neighbours, lambda done: tell(len(x) + done))
    balls = np.zeros(len(x), np.int64)  # Number of real balls around each generated vector.
    recalled = covered = 0
    for rows, distances in squared_distances(y, x):
        inside = distances < y_radii[rows, None]
        balls += inside.sum(axis=0)
        covered += inside.any(axis=1).sum()
        recalled += (distances < x_radii).any(axis=1).sum()
        tell(len(x) + len(y) + rows.stop)
    return Prdc(
        precision=float(np.mean(balls > 0)),
        recall=float(recalled / len(y)),
        density=float(np.mean(balls) / num_neighbours),
        coverage=float(covered / len(y)),
    )


def num_rows(num_generated: int, num_real: int) -> int:
    """Number of distance rows that `prdc` computes: within each set and between the sets."""
    return num_generated + 2 * num_real


def _radii(
    x: Float[np.ndarray, "n d"], k: int, tell: Callable[[int], None]
) -> Float[np.ndarray, " n"]:
    """Squared distances to the k-th neighbours, minus a bound of their rounding error.

    If two sets share vectors, many lie on surfaces, and the product of a matrix with itself rounds
    differently from the product with its copy.
    """
    radii = np.empty(len(x))
    for rows, distances in squared_distances(x, x):
        # Excludes the vector itself.
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
        tell(rows.stop)
    return radii - _ROUNDING * (radii + np.sum(x * x, axis=1))


def squared_distances(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "rows m"]]]:
    """Yields a slice of rows and their distances to all of y."""
    norms = np.sum(y * y, axis=1)
    for start in range(0, len(x), _ROWS):
        part = x[start : start + _ROWS]
        squares = np.sum(part * part, axis=1)[:, None] + norms[None, :] - 2 * (part @ y.T)
        yield slice(start, start + len(part)), np.maximum(squares, 0)
