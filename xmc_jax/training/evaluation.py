"""Measuring inside of a training job, on its devices, between its steps."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from xmc_jax.errors import UserError
from xmc_jax.evaluation import evaluator, results
from xmc_jax.evaluation.resume import remove
from xmc_jax.experiment import Experiment
from xmc_jax.parallel import processes
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.folder import evaluation_dir
from xmc_jax.types import PyTree


def make_evaluation(
    experiment: Experiment, workdir: str, data_dir: str, checkpoints: Checkpoints, writer: Any
) -> Callable[[int, PyTree], bool] | None:
    """Prepares what ``config.eval.every_steps`` asks for, before the first step.

    Args:
      experiment: The run's.
      workdir: Folder of the run.
      data_dir: Folder of the prepared data sets.
      checkpoints: Of the run; the best is kept if ``config.eval.best_metric`` names what that is.
      writer: Of TensorBoard's events.

    Returns:
      ``evaluate(step, ema)``, which all processes must call: measures what fits the run, unless
      metrics.jsonl has it, and tells whether it did. What goes wrong in it is a notice. None if
      the config wants it never.

    Raises:
      UserError: no metric can judge the run; weights or data are missing, or do not fit.
    """
    config = experiment.config
    if not config.eval.every_steps:
        return None
    options = {"workdir": workdir, "data_dir": data_dir}
    names, measure = evaluator.make_evaluation(experiment, (), **options)

    def evaluate(step: int, ema: PyTree) -> bool:
        if _is_measured(workdir, step, names):
            return False
        measured = False
        with _failure_is_a_notice(f"step {step} was not measured"):
            records = measure(step, ema)
            results.write_records(workdir, records)
            values = {f"eval/{r['metric']}": r["value"] for r in records if r["value"] is not None}
            writer.write_scalars(step, values)
            measured = True
        if not measured:  # What it drew may be what fills the disk, and training has to save.
            begun = evaluation_dir(workdir, step, "")
            for folder in begun.parent.glob(f"{begun.name}*"):
                remove(folder)
        if measured and config.eval.best_metric:
            checkpoints.wait()  # Only a complete one can be kept; one that failed ends training.
            with _failure_is_a_notice("the best checkpoint is not kept"):
                results.keep_best(workdir, config.eval.best_metric)
        return measured

    return evaluate


def is_missing(config: ConfigDict, workdir: str, step: int) -> bool:
    """Whether a step should have been measured, and may not have been, by metrics.jsonl alone.

    Where the data has fewer examples than the config wants, only `make_evaluation` knows.

    Raises:
      UserError: no metric can judge the run.
    """
    if not config.eval.every_steps or step % config.eval.every_steps:
        return False
    return not _is_measured(workdir, step, evaluator.choose_metrics((), config))


def _is_measured(workdir: str, step: int, names: Sequence[str]) -> bool:
    """Whether a step's numbers are written; what the first process sees counts for all."""
    measured = step in results.measured_steps(workdir, names)
    return bool(processes.gather(np.bool_([measured]))[0, 0])


@contextlib.contextmanager
def _failure_is_a_notice(what: str) -> Iterator[None]:
    """Tells of what goes wrong in measuring, and lets training go on.

    Of several processes one may fail alone, and the others wait for it in a collective: there all
    end, and start again from the checkpoint that was saved before.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1:
            raise
        if not isinstance(error, UserError):
            traceback.print_exc()  # A fault of this package, or of a library: worth a report.
        reason = " ".join(str(error).splitlines()) or type(error).__name__
        print(f"notice: {what}: {reason}; training goes on", file=sys.stderr, flush=True)
