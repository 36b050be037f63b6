"""Inception score (Salimans et al. 2016), in float64 on the host.

The exponential of the mean divergence between each picture's classes and those of all. A score of
scenes with several objects says little: the network names one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NUM_SPLITS = 10
SEED = 2020


class InceptionScore(NamedTuple):
    """Mean and standard deviation (of the population) over the splits."""

    mean: float
    std: float


def inception_score(
    logits: Float[np.ndarray, "n classes"], *, num_splits: int = NUM_SPLITS, seed: int = SEED
) -> InceptionScore:
    """The score of a set of pictures, as torch-fidelity has it.

    Args:
      logits: Of the classes, without the bias of the last layer, a row a picture.
      num_splits: Parts whose scores are averaged; the rows are shuffled before, and none is left
        out.
      seed: Of the shuffle.

    Raises:
      ValueError: there are fewer rows than splits.
    """
    count = len(logits)
    if count < num_splits:
        raise ValueError(f"{num_splits} splits need as many rows, not {count}")
    x = np.asarray(logits, np.float64)[np.random.RandomState(seed).permutation(count)]
    x = x - x.max(axis=1, keepdims=True)
    log_p = x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))
    p = np.exp(log_p)
    scores = []
    for split in range(num_splits):
        rows = slice(split * count // num_splits, (split + 1) * count // num_splits)
        mean = p[rows].mean(axis=0, keepdims=True)
        # A class that no row of the split has, has no part in the sum either.
        log_mean = np.log(mean, where=mean > 0, out=np.zeros_like(mean))
        divergence = np.sum(p[rows] * (log_p[rows] - log_mean), axis=1)
        scores.append(np.exp(divergence.mean()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))
