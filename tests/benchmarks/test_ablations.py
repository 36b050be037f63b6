"""Every row of the ablation, as its config builds it: what it computes and what it leaves out.

Real configs at the smallest widths, with stand-ins for the frozen networks (`small_experiment`).
"""

import functools

import jax
import numpy as np
import pytest

import xmc_jax.experiment
from tests import small_run, small_step
from tests.small_experiment import BATCH, make_experiment
from xmc_jax.configs import ablations
from xmc_jax.parallel import sharding
from xmc_jax.train_state import create_train_state

ROWS = [*ablations.TERMS, *ablations.OTHERS]
# Every row traces a step of its own, which takes seconds. The other rows combine parts of these.
TRACED_ROWS = {"none", "s", "d", "all", "self_modulation"}
# Compiling takes longer; this step has every term.
COMPILED_ROWS = {"all"}
METRIC_OF = {"s": "sentence", "w": "word", "d": "image_d", "vgg": "image_pretrained"}


def make_batch(experiment, seed):
    return sharding.put_batch(small_step.make_batch(1, BATCH, seed), experiment.mesh, batch_axis=1)


@functools.cache
def lower_step(row):
    """The lowered train step of a row."""
    experiment = make_experiment(row)
    return experiment.jit_train_step().lower(*experiment.abstract_step_arguments())


@functools.cache
def count_flops(row):
    """Floating-point operations of a train step."""
    return lower_step(row).cost_analysis()["flops"]


@functools.cache
def train_metrics(row):
    """Metrics of two train steps."""
    experiment, metrics = make_experiment(row), []
    state, step = small_run.draw_state(experiment.abstract_state()), lower_step(row).compile()
    for batch in [make_batch(experiment, seed) for seed in range(2)]:
        state, of_step = step(state, batch, experiment.frozen, jax.random.key(1))
        metrics.append(jax.device_get(of_step))
    return metrics


def rows(names, quick):
    """Test parameters; rows that are not in `quick` only run with --long."""
    return [row if row in quick else pytest.param(row, marks=pytest.mark.long) for row in names]


@pytest.mark.parametrize("row", rows(ROWS, COMPILED_ROWS))
def test_losses_are_finite(row):
    assert all(np.isfinite(value) for step in train_metrics(row) for value in step.values())


@pytest.mark.parametrize("row", rows(ROWS, TRACED_ROWS))
def test_exactly_the_terms_of_a_row_have_metrics(row):
    _, metrics = lower_step(row).out_info
    terms = ablations.TERMS.get(row, ("s", "w", "d"))  # The terms of shapes_32 without an argument.
    kept = {METRIC_OF[term] for term in terms}
    assert {name for name in METRIC_OF.values() if f"g/{name}" in metrics} == kept
    assert {name for name in METRIC_OF.values() if f"d/{name}" in metrics} == kept & {
        "sentence",
        "word",
    }


@pytest.mark.parametrize("row", rows(filter(ablations.TERMS.get, ablations.TERMS), TRACED_ROWS))
def test_excluded_terms_are_not_computed(row):
    """Each row costs more than the rows with a part of its terms."""
    others = ablations.TERMS if row not in TRACED_ROWS else TRACED_ROWS & ablations.TERMS.keys()
    for other in others:
        if set(ablations.TERMS[other]) < set(ablations.TERMS[row]):
            assert count_flops(other) < count_flops(row), (other, row)


def test_initialising_the_state_is_traced_once(monkeypatch):
    """Shapes, shardings and the step's arguments share one trace."""
    traced = []

    def create(*args, **parts):
        traced.append(args)
        return create_train_state(*args, **parts)

    monkeypatch.setattr(xmc_jax.experiment, "create_train_state", create)
    experiment = make_experiment.__wrapped__("none")
    experiment.abstract_step_arguments()
    experiment.jit_train_step()
    assert len(traced) == 1


def test_self_modulation_has_no_attention():
    rows = "s_w_d", "self_modulation"
    base, ablated = map(count_flops, rows)
    assert ablated < base
    names = [set(make_experiment(row).abstract_state().generator) for row in rows]
    assert names[0] - names[1] == {"query"}


def test_heads_add_layers_to_the_discriminator_only():
    counts = {}
    for row in ("s_w_d", "linear_head", "mlp_head"):
        state = make_experiment(row).abstract_state()
        counts[row] = [len(jax.tree.leaves(x)) for x in (state.discriminator, state.generator)]
    assert counts["linear_head"][0] - counts["s_w_d"][0] == 4  # Two layers: kernel and bias.
    assert counts["mlp_head"][0] - counts["linear_head"][0] == 4
    assert len({generator for _, generator in counts.values()}) == 1


@pytest.mark.long  # Groups of negatives also in test_losses and test_sharding.
def test_per_device_negatives_are_fewer():
    """With half of the captions the cross-entropy of a guess is lower by two log 2."""
    rows = "all", "per_device_negatives"  # Their first steps have the same sentence term.
    whole, halves = (train_metrics(row)[0]["g/sentence"] for row in rows)
    assert halves < whole
