"""experiment.py: learning rates over a run, and states that old checkpoints still fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_experiment import make_experiment
from xmc_jax.configs import shapes_32
from xmc_jax.experiment import _rate_factor


def rate_factors(warmup_until, decay_from, steps, num_steps=100):
    config = shapes_32.get_config()
    config.num_steps = num_steps
    config.optimizer.warmup_until, config.optimizer.decay_from = warmup_until, decay_from
    return [float(_rate_factor(config)(jnp.int32(step))) for step in steps]


@pytest.mark.parametrize(
    ("warmup_until", "decay_from", "wanted"),
    [
        (0.0, 0.5, {0: 1, 50: 1, 75: 0.5, 100: 0}),
        (0.2, 1.0, {0: 0, 1: 0.05, 10: 0.5, 20: 1, 99: 1}),
        (0.2, 0.5, {0: 0, 10: 0.5, 20: 1, 50: 1, 75: 0.5}),
        (1.0, 0.0, {0: 0, 50: 0.25, 100: 0}),  # At once: the product.
    ],
)
def test_rates_rise_by_a_line_and_fall_by_a_cosine(warmup_until, decay_from, wanted):
    got = rate_factors(warmup_until, decay_from, wanted)
    np.testing.assert_allclose(got, list(wanted.values()), atol=1e-6)


def test_rates_that_stay_cost_nothing():
    assert _rate_factor(shapes_32.get_config()) is None


def test_no_option_changes_the_structure_of_the_state():
    """An older checkpoint restores with any of them, and a newer one without."""
    experiment = make_experiment("s")
    before = jax.tree.structure(experiment.abstract_state())
    config = experiment.config.copy_and_resolve_references()
    config.optimizer.clip_norm, config.optimizer.warmup_until, config.loss.r1_weight = 1.0, 0.1, 1.0
    config.loss.diversity_weight = 1.0
    changed = dataclasses.replace(experiment, config=config)
    assert jax.tree.structure(changed.abstract_state()) == before
