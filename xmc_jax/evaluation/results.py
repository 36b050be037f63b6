"""What an evaluation leaves in a run's folder: metrics.jsonl, events, the best checkpoint."""

import contextlib
import os
from collections.abc import Sequence

from etils import epath

from xmc_jax import files
from xmc_jax.console import notice
from xmc_jax.errors import UserError, reason
from xmc_jax.evaluation.inputs import split_name
from xmc_jax.inference.exported import is_exported
from xmc_jax.parallel import processes
from xmc_jax.run.config import read_config
from xmc_jax.run.events import EventWriter
from xmc_jax.run.folder import best_dir, checkpoints_dir, eval_events_dir, held_dir
from xmc_jax.run.records import MetricRecord, append_metrics, evaluations, read_metrics


def write_records(workdir: epath.PathLike, records: Sequence[MetricRecord]) -> None:
    """Appends the records that metrics.jsonl lacks, once for all processes and in one write.

    TensorBoard shows those of a run: an event file of their own in `eval_events_dir`. It reads one
    file of a folder at a time, and that of the run's folder belongs to training. If that fails,
    there is only a notice: the numbers are safe in metrics.jsonl.
    """
    if processes.is_first():
        known = read_metrics(workdir)
        new = [record for record in records if record.to_json() not in known]
        append_metrics(workdir, [record.to_json() for record in new])
        if new and not is_exported(workdir):
            try:
                _write_events(workdir, new)
            except UserError as error:
                cause = (
                    f"cannot write {eval_events_dir(workdir)}: {reason(error.__cause__ or error)}"
                )
                notice(f"metrics.jsonl has these numbers, TensorBoard lacks them: {cause}")


def _write_events(workdir: epath.PathLike, records: Sequence[MetricRecord]) -> None:
    """Names are ``eval/METRIC``, and ``eval/SPLIT/METRIC`` if the run has another split."""
    own = split_name(read_config(workdir))
    with contextlib.closing(EventWriter(eval_events_dir(workdir))) as writer:
        for record in records:
            if record.value is not None:
                other = "" if record.split in (None, own) else f"{record.split}/"
                writer.write_scalars(record.step, {f"eval/{other}{record.metric}": record.value})


def measured_steps(workdir: epath.PathLike, names: Sequence[str]) -> set[int]:
    """The steps for which all of some metrics are recorded, on the run's own evaluation split.

    A quick look at a few images counts too.
    """
    found: dict[int, set[str]] = {}
    for record in _own_records(workdir):
        found.setdefault(record.step, set()).add(record.family)
    return {step for step, metrics in found.items() if metrics >= set(names)}


def _own_records(workdir: epath.PathLike) -> list[MetricRecord]:
    """Evaluations on the split that the run's config names."""
    split = split_name(read_config(workdir))
    return [r for r in evaluations(read_metrics(workdir)) if r.split in (None, split)]


def best_step(records: Sequence[MetricRecord], metric: str) -> int | None:
    """The first step with the best value of a metric; None if the metric has no value.

    Compares only values of the newest protocol, weights and number of samples: those of a quick
    look at a few images vary more, and the best of them is the luckiest.
    """
    values = [r for r in records if r.metric == metric and r.value is not None]
    if not values:
        return None
    newest = values[-1]
    sign = 1 if newest.better == "lower" else -1
    alike = [r for r in values if (r.key, r.num_samples) == (newest.key, newest.num_samples)]
    return min((sign * r.value, r.step) for r in alike)[1]


def keep_best(workdir: epath.PathLike, metric: str) -> None:
    """Links the best checkpoint by a metric into `best_dir`, and removes the previous one.

    Training deletes nothing there. Only records on the run's own evaluation split count. All
    processes may call it. Does nothing if `metric` is empty.
    """
    if not metric or not processes.is_first():
        return
    records, folder = _own_records(workdir), best_dir(workdir)
    step = best_step(records, metric)
    if step is None:
        measured = sorted({r.metric for r in records})
        notice(f"no value of config.eval.best_metric={metric!r}; there are {', '.join(measured)}")
        return
    if (folder / str(step)).exists():
        return
    sources = (checkpoints_dir(workdir), held_dir(workdir))
    if not any(link_checkpoint(source, folder, step) for source in sources):
        notice(f"the best checkpoint, of step {step}, was deleted before it could be kept")
        return
    for path in folder.iterdir():
        if path.name != str(step):
            path.rmtree()
    print(f"best so far by {metric}: step {step}, kept in {folder}", flush=True)


def link_checkpoint(source: epath.Path, target: epath.Path, step: int) -> bool:
    """Puts a checkpoint into a second folder, in one move; on local disks by hard links.

    Args:
      source: Folder of checkpoints.
      target: The second folder; created if it does not exist.
      step: Step of the checkpoint.

    Returns:
      Whether the second folder has it: False if the source lacks it or training deletes it
      meanwhile.
    """
    place = target / str(step)
    if place.exists():
        return True
    unfinished = target / f".{step}.new"
    unfinished.rmtree(missing_ok=True)
    try:
        _link(source / str(step), unfinished)
        if not (source / str(step)).exists():  # Files were deleted before they could be linked.
            raise FileNotFoundError(step)
    except FileNotFoundError:
        unfinished.rmtree(missing_ok=True)
        return False
    unfinished.rename(place)
    return True


def _link(source: epath.Path, target: epath.Path) -> None:
    paths = list(source.iterdir())
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.is_dir():
            _link(path, target / path.name)
        elif files.is_remote(path):
            path.copy(target / path.name)
        else:
            try:
                os.link(path, target / path.name)
            except FileNotFoundError:
                raise
            except OSError:  # A file system without hard links.
                path.copy(target / path.name)
