"""Inception score (Salimans et al. 2016), in float64 on the host.

The exponential of the mean divergence between the class distribution of each image and that of all
images. It says little about scenes with several objects, because the network names one of them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

NUM_SPLITS = 10
_SEED = 2020  # Of torch-fidelity.


class InceptionScore(NamedTuple):
    """Mean and (population) standard deviation over the splits."""

    mean: float
    std: float


def inception_score(
    logits: Float[np.ndarray, "n classes"], *, num_splits: int = NUM_SPLITS
) -> InceptionScore:
    """Inception score of a set of images, as torch-fidelity computes it.

    Args:
      logits: Logits of the classes without the bias of the last layer, one row for each image.
      num_splits: The score is the mean over this many parts of the shuffled rows; a ValueError if
        there are fewer rows.
    """
    count = len(logits)
    if count < num_splits:
        raise ValueError(f"{num_splits} splits need as many rows, not {count}")
    x = np.asarray(logits, np.float64)[np.random.RandomState(_SEED).permutation(count)]
    log_p = log_softmax(x, axis=1)
    p = np.exp(log_p)
    scores = []
    for split in range(num_splits):
        rows = slice(split * count // num_splits, (split + 1) * count // num_splits)
        mean = p[rows].mean(axis=0, keepdims=True)
        # Classes with mean 0 have probability 0 in every row: they add nothing to the sum.
        log_mean = np.log(mean, where=mean > 0, out=np.zeros_like(mean))
        divergence = np.sum(p[rows] * (log_p[rows] - log_mean), axis=1)
        scores.append(np.exp(divergence.mean()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))
