"""Every row of the ablation, as its configuration builds it: what it computes and leaves out."""

import functools

import jax
import numpy as np
import pytest

import xmc_jax.experiment
from configs import ablations
from tests import small_run, small_step
from tests.small_experiment import BATCH, make_experiment
from xmc_jax.parallel import sharding
from xmc_jax.train_state import create_train_state

ROWS = [*ablations.TERMS, *ablations.OTHERS]
# Each compiles a step of its own; those of the other rows are parts of these.
SHORT_ROWS = {"none", "all", "s_w_d", "self_modulation", "mlp_head", "linear_head"}
SHORT_ROWS |= {"per_device_negatives"}
METRIC_OF = {"s": "sentence", "w": "word", "d": "image_d", "vgg": "image_pretrained"}


def make_batch(experiment, seed):
    return sharding.put_batch(small_step.make_batch(1, BATCH, seed), experiment.mesh, batch_axis=1)


@functools.cache
def lower_step(row):
    """A step as it is given to the compiler."""
    experiment = make_experiment(row)
    return experiment.jit_train_step().lower(*experiment.abstract_step_arguments())


@functools.cache
def count_flops(row):
    """Floating-point operations of a step."""
    return lower_step(row).cost_analysis()["flops"]


@functools.cache
def run(row):
    """The metrics of two steps."""
    experiment = make_experiment(row)
    state, step = small_run.draw_state(experiment.abstract_state()), lower_step(row).compile()
    for batch in [make_batch(experiment, seed) for seed in range(2)]:
        state, metrics = step(state, batch, experiment.frozen, jax.random.key(1))
    return jax.device_get(metrics)


@pytest.mark.parametrize(
    "row", [row if row in SHORT_ROWS else pytest.param(row, marks=pytest.mark.long) for row in ROWS]
)
def test_row_trains(row):
    """Finite losses, and a metric of every term that the row has and of no other."""
    metrics = run(row)
    assert all(np.isfinite(value) for value in metrics.values())
    terms = ablations.TERMS.get(row, ("s", "w", "d"))  # What shapes_32 has as it is.
    kept = {METRIC_OF[term] for term in terms}
    assert {name for name in METRIC_OF.values() if f"g/{name}" in metrics} == kept
    assert {name for name in METRIC_OF.values() if f"d/{name}" in metrics} == kept & {
        "sentence",
        "word",
    }


@pytest.mark.parametrize("row", [row for row, terms in ablations.TERMS.items() if terms])
def test_a_term_left_out_is_not_computed(row):
    """Each row costs more than every row whose terms it contains."""
    for other, terms in ablations.TERMS.items():
        if set(terms) < set(ablations.TERMS[row]):
            assert count_flops(other) < count_flops(row), (other, row)


def test_initialising_the_state_is_traced_once(monkeypatch):
    """Shapes, shardings and the step's own arguments come of one tracing."""
    traced = []

    def create(*args, **parts):
        traced.append(args)
        return create_train_state(*args, **parts)

    monkeypatch.setattr(xmc_jax.experiment, "create_train_state", create)
    experiment = make_experiment.__wrapped__("none")
    experiment.abstract_step_arguments()
    experiment.jit_train_step()
    assert len(traced) == 1


def test_plain_self_modulation_drops_the_attention():
    rows = "s_w_d", "self_modulation"
    base, ablated = map(count_flops, rows)
    assert ablated < base
    names = [set(make_experiment(row).abstract_state().generator) for row in rows]
    assert names[0] - names[1] == {"query"}


def test_heads_add_layers_to_the_discriminator_alone():
    counts = {}
    for row in ("s_w_d", "linear_head", "mlp_head"):
        state = make_experiment(row).abstract_state()
        counts[row] = [len(jax.tree.leaves(x)) for x in (state.discriminator, state.generator)]
    assert counts["linear_head"][0] - counts["s_w_d"][0] == 4  # Two layers: kernel and bias.
    assert counts["mlp_head"][0] - counts["linear_head"][0] == 4
    assert len({generator for _, generator in counts.values()}) == 1


def test_per_device_negatives_are_fewer():
    """Against half of the captions the cross-entropy of a guess is lower by two log 2."""
    whole, halves = (run(row)["g/sentence"] for row in ("s_w_d", "per_device_negatives"))
    assert halves < whole
