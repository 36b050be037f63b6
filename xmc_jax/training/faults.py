"""Losses and gradients that are not finite: which one, in which step, and how a run resumes.

A run whose step N is not finite goes back to its last checkpoint C. If the config tolerates it, the
run skips steps C+1 to N: it continues with step N+1 from the parameters of C, on data that it has
not seen. This is written down, so that a run that is killed and restarted skips the same steps.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from xmc_jax.data.records import Records
from xmc_jax.data.streams import read_train_step
from xmc_jax.errors import UserError
from xmc_jax.parallel import processes, sharding
from xmc_jax.run.folder import nonfinite_path
from xmc_jax.run.records import append_lines, read_lines
from xmc_jax.train_state import TrainState
from xmc_jax.training.data import sampling


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
      restored: Step of the checkpoint that the run goes back to; 0 for its beginning.
      metric: The metric that was not finite.
      value: "nan", "inf" or "-inf".
      examples: ``{"micro_batch", "id", "caption"}`` of each example of the step.
    """

    step: int
    restored: int
    metric: str
    value: str
    examples: Sequence[Mapping[str, Any]]


def first_not_finite(metrics: Mapping[str, Any]) -> str | None:
    """The metric to name: a term before the sum that it is part of, and both before a gradient."""

    def rank(name: str) -> tuple:
        return name.endswith("/grad_norm"), name.endswith("/loss"), name

    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    return min(bad, key=rank, default=None)


def check(step: int, metrics: Mapping[str, Any]) -> None:
    """Checks the metrics of a step.

    Raises:
      NotFinite: one of them is not finite.
    """
    if name := first_not_finite(metrics):
        raise NotFinite(step, name, float(metrics[name]))


def read_faults(workdir: epath.PathLike) -> list[Fault]:
    """The faults of a run so far, in the order of their steps; without damaged lines."""
    fields = {"step": int, "restored": int, "metric": str, "value": str, "examples": list}
    faults = [Fault(*map(x.get, fields)) for x in read_lines(nonfinite_path(workdir), fields)]
    return sorted(faults, key=lambda fault: fault.step)


def write_fault(workdir: epath.PathLike, fault: Fault) -> None:
    """Writes a fault down, once."""
    if fault[:2] not in (known[:2] for known in read_faults(workdir)):
        append_lines(nonfinite_path(workdir), [json.dumps(fault._asdict())])


def step_after(faults: Sequence[Fault], checkpoint_step: int, num_steps: int) -> int:
    """The step that a run continues from after it restored a checkpoint.

    Args:
      faults: Those that are tolerated.
      checkpoint_step: Step of the checkpoint; 0 without any.
      num_steps: Steps of the run: at least one must follow what is skipped.
    """
    skipped = [x.step for x in faults if x.restored == checkpoint_step and x.step < num_steps]
    return max(skipped, default=checkpoint_step)


def skip(state: TrainState, step: int, mesh: Mesh) -> TrainState:
    """The state as if it were of a later step: that is where its data and noise go on."""
    return state.replace(step=sharding.put(np.int32(step), sharding.replicated(mesh)))


def record(
    fault: NotFinite, restored: int, workdir: str, config: ConfigDict, source: Records
) -> None:
    """Writes a step that is not finite down, with its examples. All processes call it.

    Args:
      fault: What was found.
      restored: Step of the checkpoint to go back to; 0 for the beginning.
      workdir: Folder of the run.
      config: Config of the run.
      source: The training split.

    Raises:
      UserError: the config tolerates no more faults.
    """
    with processes.first_process_first(f"write down step {fault.step}"):
        if processes.is_first():
            examples = read_train_step(source, **sampling(config), step=fault.step - 1)
            write_fault(
                workdir, Fault(fault.step, restored, fault.metric, str(fault.value), examples)
            )
    num_faults, num_skips = len(read_faults(workdir)), config.max_nonfinite_skips
    is_last = fault.step >= config.num_steps
    if num_faults > num_skips or is_last:
        skips = (
            f", or --config.max_nonfinite_skips={max(num_faults, num_skips + 1)}, which goes back "
            "to the checkpoint and skips the steps up to the fault"
        )
        raise UserError(
            f"{fault}: the run stops, and its checkpoints up to step {restored} are good; "
            f"{nonfinite_path(workdir)} has the step's examples, and --replay tells which term "
            "fails first. Try a lower learning rate or --config.model.dtype=float32"
            + ("" if is_last else skips)
        )
    processes.say(f"{fault}: going back to step {restored}")
