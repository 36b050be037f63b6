"""Our forms of the Fréchet distance against the textbook formula with scipy's matrix square root.

    python -m benchmarks.frechet                      # 2048 dimensions, 5000 and 500 vectors
    python -m benchmarks.frechet --num_vectors=300 --dimensions=128

All forms get the same features, whose spectrum decays like that of networks' features. Times are
processor seconds, which a shared machine affects less, and exclude the moments.
"""

import time

import numpy as np
import scipy.linalg
from absl import app, flags

from benchmarks import measure
from xmc_jax.metrics import frechet

DIMENSIONS = flags.DEFINE_integer("dimensions", 2048, "Dimensions of the features.")
NUM_VECTORS = flags.DEFINE_multi_integer("num_vectors", [5000, 500], "Vectors of each set.")


def textbook(one: frechet.Moments, other: frechet.Moments) -> float:
    """The formula of pytorch-fid."""
    root = scipy.linalg.sqrtm(one.covariance @ other.covariance)
    shift = one.mean - other.mean
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return float(shift @ shift + traces - 2 * np.trace(np.real(root)))


def timed(function, *arguments) -> tuple[float, float]:
    """The value, and the seconds of all processor cores."""
    begin = time.process_time()
    value = function(*arguments)
    return value, time.process_time() - begin


def main(argv) -> None:
    measure.print_environment()
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(1 + np.arange(DIMENSIONS.value))
    rows = []
    for count in NUM_VECTORS.value:
        x = rng.normal(size=(count, DIMENSIONS.value)) * scale
        y = 1.1 * rng.normal(size=(count, DIMENSIONS.value)) * scale + 0.01
        one, other = frechet.moments(x), frechet.moments(y)
        forms = {
            "scipy.linalg.sqrtm": timed(textbook, one, other),
            "frechet_distance": timed(frechet.frechet_distance, one, other),
        }
        if count <= DIMENSIONS.value:
            forms["frechet_distance_of_few"] = timed(frechet.frechet_distance_of_few, x, y)
        slowest = forms["scipy.linalg.sqrtm"][1]
        for name, (value, seconds) in forms.items():
            ratio = f"{slowest / seconds:.1f}x"
            rows.append([count, name, f"{value:.9f}", f"{seconds:.2f}", ratio])
    measure.print_table(["vectors", "form", "distance", "processor seconds", "ratio"], rows)


if __name__ == "__main__":
    app.run(main)
