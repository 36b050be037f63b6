"""All metrics: which there are for a run, which fit it, and their measuring in one go."""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from xmc_jax import processes
from xmc_jax import workdir as run
from xmc_jax.errors import UserError
from xmc_jax.evaluation import clip, distances, inception, shapes, soa
from xmc_jax.evaluation.drawing import Drawer, describe_drawing
from xmc_jax.evaluation.material import Material, Record, read_subjects, split_name
from xmc_jax.evaluation.spill import remove
from xmc_jax.experiment import Experiment

PyTree = Any

FAMILIES = (shapes, inception, distances, clip, soa)


def choose_metrics(names: Sequence[str], config: ConfigDict) -> tuple[str, ...]:
    """The metrics to measure: those asked for, or all that can judge the run.

    Raises:
      UserError: there is no such metric for the run, or it cannot judge it.
    """
    known = {name: family for family in FAMILIES for name in family.names(config)}
    for name in names:
        if name not in known:
            raise UserError(f"no metric {name!r} for this run; there are {', '.join(known)}")
        if reason := known[name].why_unfit(name, config):
            raise UserError(f"{name} cannot judge this run: {reason}")
    chosen = tuple(names) or tuple(n for n in known if not known[n].why_unfit(n, config))
    if not chosen:
        reasons = (f"{name}: {family.why_unfit(name, config)}" for name, family in known.items())
        raise UserError(f"no metric can judge this run; {'; '.join(reasons)}")
    return chosen


def make_evaluation(
    experiment: Experiment, names: Sequence[str], *, workdir: epath.PathLike, data_dir: str
) -> Callable[[int, PyTree], list[Record]]:
    """Loads what some metrics need, once for any number of checkpoints.

    Args:
      experiment: The run's.
      names: Metrics that fit, see `choose_metrics`.
      workdir: Folder of the run; what is drawn waits in it until it is measured.
      data_dir: Folder of the prepared data sets.

    Returns:
      ``evaluate(step, ema)``: the records of a checkpoint; every process must call it. A process
      that was killed in it goes on where it was, if it is called again with the same.

    Raises:
      UserError: weights or data are missing, or do not fit.
    """
    config = experiment.config
    measures = [
        family.make_measure(experiment, chosen)
        for family in FAMILIES
        if (chosen := [name for name in names if name in family.names(config)])
    ]
    with processes.first_process_first("read the examples"):
        subjects = read_subjects(experiment, data_dir)
    draw = Drawer(experiment)

    def evaluate(step: int, ema: PyTree) -> list[Record]:
        identity = describe_drawing(experiment, ema, subjects.prompts)
        scratch = run.evaluation_dir(workdir, step, identity)
        drawn = draw(ema, subjects.prompts, folder=scratch, identity=identity)
        material = Material(
            experiment, subjects.prompts, subjects.real, subjects.others, drawn, scratch
        )
        about = {
            "kind": "eval",
            "step": step,
            "split": split_name(config),
            "num_samples": len(drawn),
            "seed": config.eval.seed,
        }
        records = [about | record for measure in measures for record in measure(material)]
        processes.wait_for_all(f"measure {identity}")  # Others may still read what is there.
        remove(scratch)
        return records

    return evaluate
