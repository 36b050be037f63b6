"""experiment.py: states that old checkpoints still fit."""

import dataclasses

import jax

from tests.small_experiment import make_experiment


def test_no_option_changes_the_structure_of_the_state():
    """An older checkpoint restores with any of them, and a newer one without."""
    experiment = make_experiment("s")
    before = jax.tree.structure(experiment.abstract_state())
    config = experiment.config.copy_and_resolve_references()
    config.optimizer.clip_norm, config.optimizer.warmup_until, config.loss.r1_weight = 1.0, 0.1, 1.0
    config.loss.variety_weight = 1.0
    changed = dataclasses.replace(experiment, config=config)
    assert jax.tree.structure(changed.abstract_state()) == before
