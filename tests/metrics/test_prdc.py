"""Precision, recall, density, coverage: the numbers of the prdc package, and by hand."""

import json

import numpy as np
import pytest

from tests import places
from tests.golden import make_cmmd
from tests.golden.make_metrics import cases
from xmc_jax.metrics import prdc as module
from xmc_jax.metrics.prdc import prdc

GOLDEN = json.loads((places.GOLDEN / "metrics.json").read_text())
DGM_EVAL = json.loads((places.GOLDEN / "cmmd.json").read_text())


@pytest.mark.parametrize("name", ["many", "few", "identical", "identical_few", "offset"])
def test_equals_prdc(name):
    found = prdc(*cases()[name])
    for part, value in GOLDEN[name]["prdc"].items():
        assert getattr(found, part) == pytest.approx(value, abs=1e-12), part


@pytest.mark.parametrize("name", list(DGM_EVAL))
def test_equals_dgm_eval(name):
    found = prdc(*make_cmmd.cases()[name])
    assert found._asdict() == pytest.approx(DGM_EVAL[name]["prdc"], abs=1e-12)


def test_counted_by_hand():
    real, generated = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [0.6], [10.0]])
    # Radii with one neighbour: real 1, 1, 2; generated 0.1, 0.1, 9.4.
    found = prdc(generated, real, num_neighbours=1)
    # 0.5 and 0.6 lie in the balls of 0 and 1; 1 and 3 lie in the ball of 10.
    assert found == pytest.approx((2 / 3, 2 / 3, 4 / 3, 2 / 3))


def test_surfaces_are_outside_despite_rounding(rng):
    x = rng.normal(size=(300, 16))
    # Each vector is in its own ball, and in the balls of those it is one of the k - 1 nearest to.
    assert prdc(x, x * (1 + 2**-52)) == pytest.approx((1, 1, 1, 1), abs=1e-12)


def test_does_not_depend_on_the_rows_at_a_time(rng, monkeypatch):
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(30, 5))
    whole = prdc(x, y)
    monkeypatch.setattr(module, "_ROWS", 7)
    told = []
    assert prdc(x, y, tell=told.append) == pytest.approx(whole, abs=1e-12)
    assert told == sorted(set(told)) and told[0] == 7
    assert told[-1] == module.num_rows(len(x), len(y)) == 40 + 30 + 30


def test_too_few_vectors():
    with pytest.raises(ValueError, match="5 neighbours need more vectors than 5, 9"):
        prdc(np.zeros((5, 2)), np.zeros((9, 2)))
