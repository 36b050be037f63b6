"""All metrics: which there are for a run, which fit it, and their measuring in one go."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from xmc_jax.errors import UserError
from xmc_jax.evaluation.families import clip, inception, shapes, soa, vgg16
from xmc_jax.evaluation.generation import Drawer, describe_drawing, fingerprint_weights
from xmc_jax.evaluation.inputs import Material, Prompt, Record, read_subjects, split_name
from xmc_jax.evaluation.resume import remove
from xmc_jax.experiment import Experiment
from xmc_jax.parallel import processes
from xmc_jax.run.folder import evaluation_dir
from xmc_jax.types import PyTree

FAMILIES = (shapes, inception, vgg16, clip, soa)


class Evaluation(NamedTuple):
    """What checkpoints are measured by; made by `make_evaluation`.

    Attributes:
      names: The metrics, as their records have them before a slash: with the number of prompts
        that there really are.
      measure: ``measure(step, ema)``: the records of a checkpoint; every process must call it. A
        process that was killed in it goes on where it was, if it is called again with the same.
    """

    names: tuple[str, ...]
    measure: Callable[[int, PyTree], list[Record]]


def choose_metrics(
    names: Sequence[str], config: ConfigDict, prompts: Sequence[Prompt] | None = None
) -> tuple[str, ...]:
    """The metrics to measure: those asked for, or all that can judge the run.

    Args:
      names: Those asked for; all that can, if empty.
      config: Of the run.
      prompts: What it is measured on; None if that is not read yet, and leaves some questions open.

    Raises:
      UserError: there is no such metric for the run, or it cannot judge it.
    """
    known = _by_name(config)
    for name in names:
        if name not in known:
            raise UserError(f"no metric {name!r} for this run; there are {', '.join(known)}")
        if reason := known[name].reason_unavailable(name, config, prompts):
            raise UserError(f"{name} cannot judge this run: {reason}")
    if names:
        return tuple(names)
    reasons = {
        name: family.reason_unavailable(name, config, prompts) for name, family in known.items()
    }
    chosen = tuple(name for name, reason in reasons.items() if not reason)
    if not chosen:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"no metric can judge this run; {told}")
    return chosen


def make_evaluation(
    experiment: Experiment, names: Sequence[str], *, workdir: epath.PathLike, data_dir: str
) -> Evaluation:
    """Reads what is drawn and loads what some metrics need, once for any number of checkpoints.

    What the prompts rule out is refused here, before anything is drawn, where it was asked for;
    else it is left out, with a notice.

    Args:
      experiment: The run's.
      names: Metrics asked for; all that can judge the run, if empty.
      workdir: Folder of the run; what is drawn waits in it until it is measured.
      data_dir: Folder of the prepared data sets.

    Raises:
      UserError: a metric cannot judge the run; weights or data are missing, or do not fit.
    """
    config = experiment.config
    fitting = choose_metrics(names, config)
    with processes.first_process_first("read the examples"):
        subjects = read_subjects(experiment, data_dir)
    prompts, known = subjects.prompts, _by_name(config)
    chosen = choose_metrics(names, config, prompts)
    for name in fitting:
        if name not in chosen:
            processes.say(
                f"notice: no {name}: {known[name].reason_unavailable(name, config, prompts)}"
            )
    measures = [
        family.make_measure(experiment, own)
        for family in FAMILIES
        if (own := [name for name in chosen if known[name] is family])
    ]
    draw = Drawer(experiment)

    def measure(step: int, ema: PyTree) -> list[Record]:
        generator = fingerprint_weights(ema, experiment.mesh)
        identity = describe_drawing(experiment, generator, prompts)
        scratch = evaluation_dir(workdir, step, identity)
        drawn = draw(ema, prompts, folder=scratch, identity=identity)
        material = Material(experiment, prompts, subjects.real, subjects.others, drawn, scratch)
        about = {
            "kind": "eval",
            "step": step,
            "generator": generator,
            "split": split_name(config),
            "num_samples": len(drawn),
            "seed": config.eval.seed,
        }
        records = [about | record for measure in measures for record in measure(material)]
        processes.wait_for_all(f"measure {identity}")  # Others may still read what is there.
        remove(scratch)
        return records

    return Evaluation(_as_recorded(chosen, config, len(prompts)), measure)


def _by_name(config: ConfigDict) -> dict[str, ModuleType]:
    """Every metric's family."""
    return {name: f for f in FAMILIES for name in f.names(config.eval.num_examples)}


def _as_recorded(names: Sequence[str], config: ConfigDict, num_prompts: int) -> tuple[str, ...]:
    """Metrics under the number of prompts that there are, which may be fewer than were wanted."""
    recorded = [name for family in FAMILIES for name in family.names(num_prompts)]
    names_of = dict(zip(_by_name(config), recorded, strict=True))
    return tuple(names_of[name] for name in names)
