"""How different images are from each other: distances of pixels."""

import numpy as np
from jaxtyping import Float, UInt8


def mean_pairwise_distances(images: UInt8[np.ndarray, "n k h w 3"]) -> Float[np.ndarray, " n"]:
    """The mean distance of two images of each group, over all pairs of different images.

    The distance of two images is the root mean square of the differences of their pixels and
    channels, whose values are scaled to [0, 1].

    Args:
      images: Groups of k >= 2 images, pixels 0..255.

    Returns:
      For each group a number in [0, 1]; 0 if all its images are equal.
    """
    k = images.shape[1]
    rows, columns = np.triu_indices(k, 1)
    means = np.empty(len(images))
    for i, group in enumerate(images):
        # Differences, not products: equal images have a distance of exactly 0.
        flat = group.reshape(k, -1).astype(np.float32) / 255
        squares = [np.mean((flat[a] - flat[b]) ** 2) for a, b in zip(rows, columns, strict=True)]
        means[i] = np.mean(np.sqrt(squares))
    return means
