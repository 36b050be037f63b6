"""The kernel distance: torch-fidelity's numbers, the definition, and an unbiased mean."""

import json

import numpy as np
import pytest

from tests import places
from tests.golden.make_metrics import cases
from xmc_jax.metrics.kernel_distance import kernel_distance, squared_mmd

GOLDEN = json.loads((places.GOLDEN / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["many", "few", "identical", "identical_few", "offset"])
def test_equals_torch_fidelity(name):
    size = GOLDEN[name]["kid_subset_size"]
    told = []
    found = kernel_distance(*cases()[name], num_subsets=7, subset_size=size, tell=told.append)
    assert told == list(range(1, 8))
    # The values are differences of sums as large as the cube of the offset.
    scale = 1e22 if name == "offset" else 1
    np.testing.assert_allclose(found, GOLDEN[name]["kid"], rtol=1e-6, atol=1e-12 * scale)


def test_is_the_sum_over_pairs(rng):
    x, y = rng.normal(size=(2, 5, 3))
    kernel = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i, j in pairs if i != j) / 20
    between = sum(kernel(x[i], y[j]) for i, j in pairs) / 25
    assert squared_mmd(x, y) == pytest.approx(within - 2 * between, rel=1e-12)


def test_is_zero_on_average_for_equal_distributions(rng):
    values = [squared_mmd(*rng.normal(size=(2, 20, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0


def test_small_sets_are_refused(rng):
    with pytest.raises(ValueError, match="subsets of 10 need as many vectors, not 9, 20"):
        kernel_distance(rng.normal(size=(9, 2)), rng.normal(size=(20, 2)), subset_size=10)
