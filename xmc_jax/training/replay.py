"""Repeats a training step, update by update, to find its first term that is not finite."""

import contextlib
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from xmc_jax.data import catalog
from xmc_jax.errors import UserError
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.parallel import processes, sharding
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config_checks import check_training
from xmc_jax.run.folder import checkpoints_dir, nonfinite_path
from xmc_jax.run.records import read_metrics
from xmc_jax.train_state import TrainState
from xmc_jax.training import faults
from xmc_jax.training.data import open_stream
from xmc_jax.types import Batch


def replay(
    config: ConfigDict, workdir: str, data_dir: str, reader_workers: int | None, fsdp: int
) -> None:
    """Repeats the last step that was not finite; see `start.replay`."""
    check_training(config)
    if not (known := faults.read_faults(workdir)):
        raise UserError(f"nothing to replay: {nonfinite_path(workdir)} lists no step")
    *earlier, fault = known
    if not fault.restored and (folder := _initial_folder(workdir)):
        raise UserError(
            f"cannot replay step {fault.step}: the run started from {folder} and has no checkpoint "
            "before that step; repeat the run with a smaller --config.checkpoint_every_steps"
        )
    with processes.first_process_first("open the data"):
        source = catalog.open_train_split(config, data_dir)
    experiment = create_experiment(config, workdir, fsdp=fsdp)
    if fault.restored:
        with Checkpoints(checkpoints_dir(workdir), read_only=True) as checkpoints:
            state = checkpoints.restore(experiment.abstract_state(), fault.restored)
    else:
        state = experiment.init_state()
    # As the run did that found it.
    start = faults.step_after(
        [x for x in earlier if x.step < fault.step], fault.restored, config.num_steps
    )
    state = faults.skip(state, start, experiment.mesh)
    stream = open_stream(experiment, source, reader_workers, start)
    with contextlib.closing(stream):
        for line in replay_step(experiment, state, stream, fault.step):
            processes.say(line)


def _initial_folder(workdir: str) -> str | None:
    """What a run was started from with `--init_from`."""
    starts = [record for record in read_metrics(workdir) if record["kind"] == "start"]
    return starts[0].get("init_from") if starts else None


def replay_step(
    experiment: Experiment, state: TrainState, batches: Iterator[Batch], step: int
) -> Iterator[str]:
    """Repeats the steps up to a step, and that step with all metrics of its updates.

    Args:
      experiment: As it was trained.
      state: State before that step, or some steps earlier.
      batches: Batches of the steps that follow the state's.
      step: The step to look into.

    Yields:
      Lines to print: every number of the step, then the first that is not finite.
    """
    mesh, rng = experiment.mesh, experiment.make_rng()
    train_step = experiment.jit_train_step()
    for _ in range(int(state.step) + 1, step):
        batch = sharding.put_batch(next(batches), mesh, batch_axis=1)
        state, _ = train_step(state, batch, experiment.frozen, rng)
    yield f"step {step}, on the parameters of step {int(state.step)}:"
    damaged = not_finite_arrays(state)
    if damaged:
        yield f"not finite before it: {', '.join(damaged[:3])}{', …' * (len(damaged) > 3)}"

    batch = sharding.put_batch(next(batches), mesh, batch_axis=1)
    detailed_step = experiment.jit_train_step(every_update=True)
    state, metrics = detailed_step(state, batch, experiment.frozen, rng)
    first = f"{damaged[0]}, before the step" if damaged else None
    for index, values in enumerate(jax.device_get(metrics), start=1):
        place = f"update {index} of {len(metrics)}"
        for name, value in values.items():
            mark = "" if math.isfinite(value) else "   <- not finite"
            yield f"  {place}  {name:<24}{float(value):>12.5g}{mark}"
        name = faults.first_not_finite(values)
        first = first or name and f"{name} of {place}"
    changed = not_finite_arrays(state)
    first = first or changed and f"{changed[0]}, after the step"
    yield f"first not finite: {first}" if first else "everything is finite this time"


def not_finite_arrays(state: TrainState) -> list[str]:
    """Names of the arrays of a state that are not finite everywhere."""
    finite = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree))
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(finite(state)))
    return [jax.tree_util.keystr(path).lstrip(".") for path, good in leaves if not good]
