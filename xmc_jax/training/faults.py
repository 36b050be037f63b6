"""Losses and gradients that are not finite: which one, in which step, and how to go on after it.

A run whose step N is not finite goes back to its last checkpoint C and, if the config lets it,
leaves steps C+1 to N out: it goes on with step N+1 from the parameters of C, on data that it has
not seen. That is written down, so that a run which is killed and started again leaves out the same.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from xmc_jax.errors import UserError
from xmc_jax.run.folder import nonfinite_path
from xmc_jax.run.records import append_lines, read_lines


class NotFinite(UserError):
    """A metric of a step is not finite.

    Attributes:
      step: The step.
      metric: Name of the first such metric, see `first_not_finite`.
      value: NaN or infinite.
    """

    def __init__(self, step: int, metric: str, value: float):
        super().__init__(f"{metric} is {value} at step {step}")
        self.step, self.metric, self.value = step, metric, value


class Fault(NamedTuple):
    """A step that was not finite.

    Attributes:
      step: The step.
      restored: Step of the checkpoint that the run goes back to; 0: its beginning.
      metric: What was not finite.
      value: "nan", "inf" or "-inf".
      examples: ``{"micro_batch", "id", "caption"}`` of each example of the step.
    """

    step: int
    restored: int
    metric: str
    value: str
    examples: Sequence[Mapping[str, Any]]


def first_not_finite(metrics: Mapping[str, Any]) -> str | None:
    """The metric to name: a term before the sum it is part of, and both before their gradient."""

    def rank(name: str) -> tuple:
        return name.endswith("/grad_norm"), name.endswith("/loss"), name

    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    return min(bad, key=rank, default=None)


def check(step: int, metrics: Mapping[str, Any]) -> None:
    """Raises:
    NotFinite: a metric of the step is not finite.
    """
    if name := first_not_finite(metrics):
        raise NotFinite(step, name, float(metrics[name]))


def read_faults(workdir: epath.PathLike) -> list[Fault]:
    """The faults of a run so far, in the order of their steps; damaged lines are passed over."""
    fields = {"step": int, "restored": int, "metric": str, "value": str, "examples": list}
    faults = [Fault(*map(x.get, fields)) for x in read_lines(nonfinite_path(workdir), fields)]
    return sorted(faults, key=lambda fault: fault.step)


def write_fault(workdir: epath.PathLike, fault: Fault) -> None:
    """Writes a fault down, once."""
    if fault[:2] not in (known[:2] for known in read_faults(workdir)):
        append_lines(nonfinite_path(workdir), [json.dumps(fault._asdict())])


def step_after(faults: Sequence[Fault], checkpoint_step: int, num_steps: int) -> int:
    """The step that a run goes on from which was restored from a checkpoint.

    Args:
      faults: Those that may be left out.
      checkpoint_step: Of the checkpoint; 0 without any.
      num_steps: Of the run: at least one step follows what is left out.
    """
    left_out = [x.step for x in faults if x.restored == checkpoint_step and x.step < num_steps]
    return max(left_out, default=checkpoint_step)
