"""Evaluation inside a training job, on its devices, between its steps."""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from xmc_jax.console import notice
from xmc_jax.errors import UserError, reason
from xmc_jax.evaluation import results
from xmc_jax.evaluation.evaluator import create_evaluator
from xmc_jax.evaluation.resume import measuring_alone, remove
from xmc_jax.evaluation.selection import choose_metrics
from xmc_jax.experiment import Experiment
from xmc_jax.parallel import processes
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.folder import evaluation_dir
from xmc_jax.types import PyTree


def make_periodic_evaluation(
    experiment: Experiment, workdir: str, data_dir: str, checkpoints: Checkpoints
) -> Callable[[int, PyTree], bool] | None:
    """Prepares what ``config.eval.every_steps`` asks for, before the first step.

    Args:
      experiment: The run's.
      workdir: Folder of the run.
      data_dir: Folder of the prepared data sets.
      checkpoints: The best one is kept if ``config.eval.best_metric`` is set.

    Returns:
      None if the config asks for no evaluation. Otherwise ``evaluate(step, ema)``, which all
      processes must call: measures all available metrics, unless metrics.jsonl has them, and
      returns whether it did. If measuring fails, a notice says so and training continues.

    Raises:
      UserError: no metric is available; weights or data are missing or do not fit.
    """
    config = experiment.config
    if not config.eval.every_steps:
        return None
    names, measure = create_evaluator(experiment, (), workdir=workdir, data_dir=data_dir)

    def evaluate(step: int, ema: PyTree) -> bool:
        if _is_measured(workdir, step, names):
            return False
        measured = False
        with _failure_is_a_notice(f"step {step} was not measured"):
            measure(step, ema)
            measured = True
        if not measured:  # Generated images may have filled the disk, and training must save.
            begun = evaluation_dir(workdir, step, "")
            for folder in begun.parent.glob(f"{begun.name}*"):
                with contextlib.suppress(UserError), measuring_alone(folder):
                    remove(folder)
        if measured and config.eval.best_metric:
            checkpoints.wait()  # The checkpoint must be complete; a failed save ends training.
            with _failure_is_a_notice("the best checkpoint is not kept"):
                results.keep_best(workdir, config.eval.best_metric)
        return measured

    return evaluate


def is_missing(config: ConfigDict, workdir: str, step: int) -> bool:
    """Whether a step should have been measured, and metrics.jsonl lacks metrics of it.

    Metrics that the prompts rule out count as missing: only `create_evaluator` reads the prompts. A
    UserError if no metric is available.
    """
    if not config.eval.every_steps or step % config.eval.every_steps:
        return False
    return not _is_measured(workdir, step, choose_metrics((), config))


def _is_measured(workdir: str, step: int, names: Sequence[str]) -> bool:
    """Whether all metrics of a step are recorded, as the first process sees it."""
    measured = step in results.measured_steps(workdir, names)
    return bool(processes.gather(np.bool_([measured]))[0, 0])


@contextlib.contextmanager
def _failure_is_a_notice(what: str) -> Iterator[None]:
    """Prints a failure of an evaluation as a notice and lets training continue.

    With several processes the failure ends training: one may fail alone while the others wait for
    it in a collective. All resume from the checkpoint that was saved before.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1:
            raise
        message = " ".join(str(error).splitlines())
        if not isinstance(error, UserError):
            traceback.print_exc()  # A fault of this package or of a library, worth a report.
            message = reason(error)
        notice(f"{what}: {message}; training goes on")
