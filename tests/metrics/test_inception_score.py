"""The inception score: torch-fidelity's numbers and closed forms."""

import json

import numpy as np
import pytest

from tests import places
from tests.golden.make_metrics import logits
from xmc_jax.metrics.inception_score import inception_score

GOLDEN = json.loads((places.GOLDEN / "metrics.json").read_text())


def test_equals_torch_fidelity():
    np.testing.assert_allclose(inception_score(logits()), GOLDEN["inception_score"], rtol=1e-9)


def test_certain_classes_score_their_number_and_uniform_ones_1():
    found = inception_score(1000.0 * np.eye(8)[np.arange(80) % 8], num_splits=1)
    assert found.mean == pytest.approx(8)
    assert inception_score(np.zeros((20, 8))).mean == pytest.approx(1)


def test_is_invariant_to_a_constant_in_all_logits(rng):
    x = rng.normal(size=(50, 6))
    np.testing.assert_allclose(inception_score(x + 1e4), inception_score(x), rtol=1e-9)


def test_too_few_rows():
    with pytest.raises(ValueError, match="10 splits need as many rows, not 9"):
        inception_score(np.zeros((9, 3)))
