"""Evaluation of a finished run, of a run while it trains, or of an exported model."""

import time
import types
from collections.abc import Mapping, Sequence

import numpy as np

from xmc_jax.evaluation import results
from xmc_jax.evaluation.evaluator import Evaluator, create_evaluator
from xmc_jax.evaluation.request import POLL_SECONDS, read_request, wait_for_run
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.inference import model
from xmc_jax.inference.exported import is_exported
from xmc_jax.parallel import processes
from xmc_jax.run.checkpoint import Checkpoints, complete_steps
from xmc_jax.run.config import read_config
from xmc_jax.run.folder import checkpoints_dir, held_dir
from xmc_jax.run.records import MetricRecord
from xmc_jax.types import PyTree


def evaluate(
    workdir: str,
    data_dir: str,
    names: Sequence[str] = (),
    step: int | None = None,
    settings: Mapping[str, str] = types.MappingProxyType({}),
    split: str | None = None,
) -> list[MetricRecord]:
    """Measures a checkpoint or an exported model: appends to metrics.jsonl, prints a table.

    All processes must call it; all have the records, and the first one writes and prints.

    Args:
      workdir: Folder of a run, or of an exported model.
      data_dir: Folder of the prepared data sets.
      names: Metrics; empty for all that are available.
      step: Step of the checkpoint; None for the newest.
      settings: Values of fields of ``config.eval`` for this evaluation only, as text.
      split: Split to measure on; None for the run's own evaluation split.

    Raises:
      UserError: a metric is not available for this run, or something is missing.
    """
    experiment, evaluator = _open(workdir, data_dir, names, settings, split)
    step, ema = model.restore(workdir, experiment, step)
    return _measure(workdir, experiment, evaluator, step, ema)


def watch(
    workdir: str,
    data_dir: str,
    names: Sequence[str] = (),
    settings: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Measures every checkpoint of a run once, as it is saved, until the run's last step.

    It may start before training does, and may be stopped and started again: what metrics.jsonl has
    is not measured again. It only reads what training writes, and links a checkpoint into a folder
    of its own while it measures it. Arguments and errors as in `evaluate`.
    """
    wait_for_run(workdir)
    experiment, evaluator = _open(workdir, data_dir, names, settings, split=None)
    done = results.measured_steps(workdir, evaluator.names)
    processes.say(f"watching {workdir}: {len(done)} checkpoints are measured already")
    while True:
        last = read_config(workdir).num_steps  # A restart of training may change it.
        step = _next_step(workdir, done)
        if step is not None:
            done.add(step)
            if _hold(workdir, step):
                _measure_held(workdir, experiment, evaluator, step)
        elif max(done, default=0) >= last:
            processes.say(f"done: {workdir} is at step {last} of {last}")
            return
        else:
            time.sleep(POLL_SECONDS)


def format_table(records: Sequence[MetricRecord]) -> str:
    """The numbers of one checkpoint, one line each, with the intervals that there are."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    width = max(len(r.metric) for r in records) + 2
    lines = [f"{'metric':<{width}}{'value':>8}  {'interval':<16}{'floor':>8}{'ceiling':>9}{'n':>8}"]
    for r in records:
        interval = "" if r.low is None else f"{number(r.low)} - {number(r.high)}"
        lines.append(
            f"{r.metric:<{width}}{number(r.value):>8}  {interval:<16}"
            f"{number(r.floor):>8}{number(r.ceiling):>9}{r.num_samples:>8}"
        )
    return "\n".join(lines)


def _open(
    workdir: str,
    data_dir: str,
    names: Sequence[str],
    settings: Mapping[str, str],
    split: str | None,
) -> tuple[Experiment, Evaluator]:
    config = read_request(workdir, names, settings, split)
    experiment = create_experiment(config, workdir, training=False)
    return experiment, create_evaluator(experiment, names, workdir=workdir, data_dir=data_dir)


def _measure(
    workdir: str, experiment: Experiment, evaluator: Evaluator, step: int, ema: PyTree
) -> list[MetricRecord]:
    """Measures a generator, prints its records, and keeps the best of a run."""
    records = evaluator.measure(step, ema)
    if not is_exported(workdir):
        results.keep_best(workdir, experiment.config.eval.best_metric)
    processes.say(format_table(records))
    return records


def _next_step(workdir: str, done: set[int]) -> int | None:
    """The first step that is not done, as the first process sees it; None if there is none."""
    # A killed watcher may hold a checkpoint that training has deleted since.
    there = {*complete_steps(checkpoints_dir(workdir)), *complete_steps(held_dir(workdir))}
    new = sorted(there - done)
    step = int(processes.gather(np.int64(new[:1] or [-1]))[0, 0])
    return step if step >= 0 else None


def _hold(workdir: str, step: int) -> bool:
    """Links a checkpoint to where training does not delete it; whether this worked, for all."""
    held = False
    if processes.is_first():
        held = results.link_checkpoint(checkpoints_dir(workdir), held_dir(workdir), step)
    held = bool(processes.gather(np.bool_([held]))[0, 0])
    if not held:
        processes.say(f"notice: checkpoint {step} was deleted before it was measured")
    return held


def _measure_held(workdir: str, experiment: Experiment, evaluator: Evaluator, step: int) -> None:
    held = held_dir(workdir)
    with Checkpoints(held, read_only=True) as checkpoints:
        _, ema = checkpoints.restore_ema(experiment.abstract_ema(), step)
    _measure(workdir, experiment, evaluator, step, ema)
    processes.wait_for_all(f"measured {step}")
    if processes.is_first():
        (held / str(step)).rmtree()
