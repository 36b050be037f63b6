"""Which metrics there are, and which of them can be computed for a run.

A family of metrics is a module of `families` with three functions:

* ``names(num_prompts)``: the names of its metrics, as ``--metrics`` takes them;
* ``reason_unavailable(name, config, prompts)``: why a metric cannot be computed for a run, or None.
  Before the prompts are read, they are None, and only the config decides;
* ``make_measure(config, mesh, names)``: checks and loads what the chosen metrics need, and returns
  ``measure(inputs)``, which turns an `EvalInputs` into a list of `MetricRecord`.

Loads neither TFDS nor Keras, so that a wrong name is refused at once.
"""

from collections.abc import Sequence
from types import ModuleType

from ml_collections import ConfigDict

from xmc_jax.errors import UserError
from xmc_jax.evaluation.families import (
    clip,
    compose,
    dinov2,
    diversity,
    emoji,
    inception,
    shapes,
    soa,
    vgg16,
)
from xmc_jax.evaluation.inputs import Prompts

FAMILIES = (shapes, diversity, emoji, inception, vgg16, dinov2, clip, soa, compose)


def choose_metrics(
    names: Sequence[str], config: ConfigDict, prompts: Prompts | None = None
) -> tuple[str, ...]:
    """The metrics to compute: those asked for, or all that are available for the run.

    Args:
      names: Metrics asked for; empty for all that are available.
      config: The run's.
      prompts: None if they are not read yet, which leaves some reasons open.

    Raises:
      UserError: there is no such metric for the run, or it is not available.
    """
    known = family_of_each(config)
    reasons = {}
    for name in names or known:
        if name not in known:
            raise UserError(f"no metric {name!r} for this run; there are {', '.join(known)}")
        reasons[name] = known[name].reason_unavailable(name, config, prompts)
        if names and reasons[name]:
            raise UserError(f"{name} cannot measure this run: {reasons[name]}")
    if names:
        return tuple(names)
    chosen = tuple(name for name, reason in reasons.items() if not reason)
    if not chosen:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"no metric can measure this run; {listed}")
    return chosen


def family_of_each(config: ConfigDict) -> dict[str, ModuleType]:
    """Every metric of a run, available or not, with its family."""
    return {name: f for f in FAMILIES for name in f.names(config.eval.num_examples)}


def recorded_names(names: Sequence[str], config: ConfigDict, num_prompts: int) -> tuple[str, ...]:
    """Metrics under the names in their records, which have the number of prompts that there are."""
    recorded = [name for family in FAMILIES for name in family.names(num_prompts)]
    names_of = dict(zip(family_of_each(config), recorded, strict=True))
    return tuple(names_of[name] for name in names)
