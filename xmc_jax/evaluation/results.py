"""What evaluations leave in a run's folder: lines of metrics.jsonl, and the best checkpoint."""

import contextlib
import os
import sys
from collections.abc import Sequence

from etils import epath

from xmc_jax.evaluation.inputs import Record, split_name
from xmc_jax.parallel import processes
from xmc_jax.run.config import read_config
from xmc_jax.run.folder import best_dir, checkpoints_dir, held_dir
from xmc_jax.run.records import append_metrics, read_metrics


def write_records(workdir: epath.PathLike, records: Sequence[Record]) -> None:
    """Appends what is not there yet, once for all processes and in one write."""
    if processes.is_first():
        known = read_metrics(workdir)
        append_metrics(workdir, [record for record in records if record not in known])


def measured_steps(workdir: epath.PathLike, names: Sequence[str]) -> set[int]:
    """Steps for which every one of some metrics has been written, of the run's own split."""
    found: dict[int, set[str]] = {}
    for record in _own_records(workdir):
        found.setdefault(record["step"], set()).add(record["metric"].partition("/")[0])
    return {step for step, metrics in found.items() if metrics >= set(names)}


def _own_records(workdir: epath.PathLike) -> list[Record]:
    """Evaluations on the split that the run's config names; those on others choose nothing."""
    split = split_name(read_config(workdir))
    records = (r for r in read_metrics(workdir) if r["kind"] == "eval")
    return [r for r in records if r.get("split", split) == split]


def best_step(records: Sequence[Record], metric: str) -> int | None:
    """The step with the best value of a metric, the earliest of equals; None without any.

    Only values under the newest protocol and weights are compared.
    """
    own = [r for r in records if r["kind"] == "eval" and r["metric"] == metric]
    own = [r for r in own if r["value"] is not None]
    if not own:
        return None
    newest = own[-1]
    own = [r for r in own if all(r[k] == newest[k] for k in ("protocol", "weights"))]
    sign = 1 if newest["better"] == "lower" else -1
    return min(own, key=lambda r: (sign * r["value"], r["step"]))["step"]


def keep_best(workdir: epath.PathLike, metric: str) -> None:
    """Sees to it that the best checkpoint, by the records so far, is in `workdir.best_dir`.

    Only what was measured on the run's own evaluation split counts. The checkpoint is linked there,
    where trainers delete nothing; the one before it goes. All processes may call it.

    Args:
      workdir: Folder of a run.
      metric: Name of the number to judge by; nothing happens if empty.
    """
    if not metric or not processes.is_first():
        return
    records, folder = _own_records(workdir), best_dir(workdir)
    step = best_step(records, metric)
    if step is None:
        measured = sorted({r["metric"] for r in records})
        _notice(f"no value of config.eval.best_metric={metric!r}; there are {', '.join(measured)}")
        return
    if (folder / str(step)).exists():
        return
    sources = (checkpoints_dir(workdir), held_dir(workdir))
    if not any(link_checkpoint(source, folder, step) for source in sources):
        _notice(f"the best checkpoint, of step {step}, is no longer there to be kept")
        return
    for path in folder.iterdir():
        if path.name != str(step):
            path.rmtree()
    print(f"best so far by {metric}: step {step}, kept in {folder}", flush=True)


def link_checkpoint(source: epath.Path, target: epath.Path, step: int) -> bool:
    """Gives a checkpoint a second place, in one move and, on local disks, without a second copy.

    Args:
      source: Folder of checkpoints.
      target: Another; made if it is not there.
      step: Of the checkpoint.

    Returns:
      Whether it is there: False if the source has none, or a trainer deletes it meanwhile.
    """
    place = target / str(step)
    if place.exists():
        return True
    unfinished = target / f".{step}.new"
    with contextlib.suppress(FileNotFoundError):
        unfinished.rmtree()
    try:
        _link(source / str(step), unfinished)
        if not (source / str(step)).exists():  # What was linked may lack what was deleted first.
            raise FileNotFoundError(step)
    except FileNotFoundError:
        if unfinished.exists():
            unfinished.rmtree()
        return False
    unfinished.rename(place)
    return True


def _link(source: epath.Path, target: epath.Path) -> None:
    paths = list(source.iterdir())
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.is_dir():
            _link(path, target / path.name)
            continue
        try:
            os.link(path, target / path.name)
        except FileNotFoundError:
            if not path.exists():
                raise
            path.copy(target / path.name)  # Remote.
        except OSError:  # File systems without links.
            path.copy(target / path.name)


def _notice(message: str) -> None:
    print(f"notice: {message}", file=sys.stderr, flush=True)
