"""A training step again, update by update: which of its terms is the first that is not finite."""

import contextlib
import math
from collections.abc import Iterator

import jax
import numpy as np

from xmc_jax.data.catalog import open_train_split
from xmc_jax.errors import UserError
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.parallel import processes, sharding
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import check_same_networks
from xmc_jax.run.config_checks import check_config
from xmc_jax.run.folder import checkpoints_dir, nonfinite_path
from xmc_jax.train_state import TrainState
from xmc_jax.training import faults as nonfinite
from xmc_jax.training.data import open_stream
from xmc_jax.types import Batch


def replay(
    config, workdir: str, data_dir: str, reader_workers: int | None = None, fsdp: int = 1
) -> None:
    """Takes the last step that was not finite again, and prints its terms; writes nothing.

    Args:
      config: See `train.train`; as it was then, or with what may mend it.
      workdir: See `train.train`.
      data_dir: See `train.train`.
      reader_workers: See `train.train`.
      fsdp: See `train.train`.

    Raises:
      UserError: no step was not finite, or its checkpoint is gone.
    """
    check_same_networks(workdir, config)
    check_config(config)
    if not (faults := nonfinite.read_faults(workdir)):
        raise UserError(f"nothing to replay: {nonfinite_path(workdir)} lists no step")
    fault = faults[-1]
    with processes.first_process_first("open the data"):
        source = open_train_split(config, data_dir)
    experiment = create_experiment(config, fsdp=fsdp)
    if fault.restored:
        with Checkpoints(checkpoints_dir(workdir), read_only=True) as checkpoints:
            state = checkpoints.restore(experiment.abstract_state(), fault.restored)
    else:
        state = experiment.init_state()
    with contextlib.closing(
        open_stream(experiment, source, reader_workers, fault.restored)
    ) as stream:
        for line in replay_step(experiment, state, stream, fault.step):
            processes.say(line)


def replay_step(
    experiment: Experiment, state: TrainState, batches: Iterator[Batch], step: int
) -> Iterator[str]:
    """Takes the steps to a step again, and that step with all metrics of its updates.

    Args:
      experiment: As it was trained.
      state: Before that step, or some steps earlier.
      batches: Of the steps that follow the state's.
      step: The step to look into.

    Yields:
      Lines for people: every number of the step, and at the end the first that is not finite.
    """
    mesh = experiment.mesh
    rng, take = experiment.make_rng(), experiment.jit_train_step()
    for _ in range(int(state.step) + 1, step):
        batch = sharding.put_batch(next(batches), mesh, batch_axis=1)
        state, _ = take(state, batch, experiment.frozen, rng)
    yield f"step {step}, on the parameters of step {int(state.step)}:"
    damaged = not_finite_arrays(state)
    if damaged:
        yield f"not finite before it: {', '.join(damaged[:3])}{', …' * (len(damaged) > 3)}"

    batch = sharding.put_batch(next(batches), mesh, batch_axis=1)
    look = experiment.jit_train_step(every_update=True)
    state, metrics = look(state, batch, experiment.frozen, rng)
    first = f"{damaged[0]}, before the step" if damaged else None
    for index, values in enumerate(jax.device_get(metrics), start=1):
        place = f"update {index} of {len(metrics)}"
        for name, value in values.items():
            mark = "" if math.isfinite(value) else "   <- not finite"
            yield f"  {place}  {name:<24}{float(value):>12.5g}{mark}"
        name = nonfinite.first_not_finite(values)
        first = first or name and f"{name} of {place}"
    changed = not_finite_arrays(state)
    first = first or changed and f"{changed[0]}, after the step"
    yield f"first not finite: {first}" if first else "all of it is finite this time"


def not_finite_arrays(state: TrainState) -> list[str]:
    """Names of the arrays of a state that hold what is not finite."""
    finite = jax.jit(
        lambda tree: jax.tree.map(lambda x: jax.numpy.all(jax.numpy.isfinite(x)), tree)
    )
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(finite(state)))
    return [jax.tree_util.keystr(path).lstrip(".") for path, good in leaves if not np.all(good)]
