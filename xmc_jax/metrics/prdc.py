"""Precision, recall, density and coverage by nearest neighbours, in float64 on the host.

Kynkaanniemi et al. 2019, Naeem et al. 2020. A ball around each vector reaches to its k-th
neighbour in its own set; what lies on its surface is outside.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NUM_NEIGHBOURS = 5
_ROWS = 512  # Of a distance matrix at a time.
_ROUNDING = 1e-12  # Of a squared distance, as a share of its terms; they are sums of products.


class Prdc(NamedTuple):
    """What balls around vectors of one set hold of the other.

    Attributes:
      precision: Share of the generated vectors in some real ball.
      recall: Share of the real vectors in some generated ball.
      density: Real balls a generated vector is in, over k; may exceed 1.
      coverage: Share of the real balls that hold a generated vector.
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
    """The four numbers; memory grows with the number of vectors, not with its square.

    Args:
      generated: Features of one set.
      real: Features of the other.
      num_neighbours: The balls reach to this neighbour.
      tell: Called with how many rows of distances are done, now and then; there are `num_rows`.

    Raises:
      ValueError: a set has no k-th neighbour.
    """
    if min(len(generated), len(real)) <= num_neighbours:
        raise ValueError(
            f"{num_neighbours} neighbours need more vectors than {len(generated)}, {len(real)}"
        )
    # Distances stay the same and lose fewer digits near the origin.
    centre = np.mean(real, axis=0, dtype=np.float64)
    x, y = np.asarray(generated, np.float64) - centre, np.asarray(real, np.float64) - centre
    x_radii = _radii(x, num_neighbours, tell)
    y_radii = _radii(y, num_neighbours, lambda done: tell(len(x) + done))
    balls = np.zeros(len(x), np.int64)  # Real ones, around each generated vector.
    recalled = covered = 0
    for rows, distances in _squared_distances(y, x):
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
    """Rows of distances of which `prdc` tells: those within each set, and between them."""
    return num_generated + 2 * num_real


def _radii(
    x: Float[np.ndarray, "n d"], k: int, tell: Callable[[int], None]
) -> Float[np.ndarray, " n"]:
    """Squared distances to the k-th neighbours, less their rounding.

    In two sets that share vectors many lie on surfaces, and a product of a matrix with itself is
    rounded otherwise than one with its copy.
    """
    radii = np.empty(len(x))
    for rows, distances in _squared_distances(x, x):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf  # Itself.
        radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
        tell(rows.stop)
    return radii - _ROUNDING * (radii + np.sum(x * x, axis=1))


def _squared_distances(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "rows m"]]]:
    """Some rows of the matrix at a time, and which."""
    norms = np.sum(y * y, axis=1)
    for start in range(0, len(x), _ROWS):
        part = x[start : start + _ROWS]
        squares = np.sum(part * part, axis=1)[:, None] + norms[None, :] - 2 * (part @ y.T)
        yield slice(start, start + len(part)), np.maximum(squares, 0)
