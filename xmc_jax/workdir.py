"""The folder of a run: what lies where in it, and how its two text files are written and read.

    config.json              the resolved config, written when the run starts
    metrics.jsonl            one line a record; training appends to it, and so does evaluation
    samples/                 captions.json and one grid of samples a time, step_00001000.png
    checkpoints/<step>/      see `checkpoint.py`
    best/<step>/             the checkpoint that `config.eval.best_metric` likes best
    evaluation/              what an evaluation that goes on, or was killed, has done so far
    report.html              see `report.py`

Every path may be local or remote (``gs://…``).
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from etils import epath

from xmc_jax.errors import UserError

Record = dict[str, Any]

# Sections of the config that fix the shapes and the meaning of the weights.
FIXED_SECTIONS = ("model", "text")


def config_path(workdir: epath.PathLike) -> epath.Path:
    """Where the run's resolved config is."""
    return epath.Path(workdir) / "config.json"


def metrics_path(workdir: epath.PathLike) -> epath.Path:
    """Where the run's numbers are, one JSON object a line."""
    return epath.Path(workdir) / "metrics.jsonl"


def samples_dir(workdir: epath.PathLike) -> epath.Path:
    """Where the sample grids of training are."""
    return epath.Path(workdir) / "samples"


def sample_path(workdir: epath.PathLike, step: int) -> epath.Path:
    """The sample grid of a step."""
    return samples_dir(workdir) / f"step_{step:08d}.png"


def captions_path(workdir: epath.PathLike) -> epath.Path:
    """What the sample grids show: ``{"captions": [...], "columns": N}``, row by row."""
    return samples_dir(workdir) / "captions.json"


def checkpoints_dir(workdir: epath.PathLike) -> epath.Path:
    """Where the checkpoints are, one folder a step."""
    return epath.Path(workdir) / "checkpoints"


def evaluation_dir(workdir: epath.PathLike, step: int, identity: str) -> epath.Path:
    """Where one evaluation keeps what it has done so far; removed when it is over."""
    return epath.Path(workdir) / "evaluation" / f"step_{step:08d}_{identity[:12]}"


def best_dir(workdir: epath.PathLike) -> epath.Path:
    """Where the best checkpoint is, one folder as in `checkpoints_dir`."""
    return epath.Path(workdir) / "best"


def held_dir(workdir: epath.PathLike) -> epath.Path:
    """Where checkpoints are while they are measured beside a trainer, which may delete its own."""
    return epath.Path(workdir) / "evaluation" / "checkpoints"


def find_checkpoints(workdir: epath.PathLike, step: int | None) -> epath.Path:
    """The folder that has a step's checkpoint: the best one may be in `best_dir` alone."""
    elsewhere = (best_dir(workdir) / str(step)).exists()
    if elsewhere and not (checkpoints_dir(workdir) / str(step)).exists():
        return best_dir(workdir)
    return checkpoints_dir(workdir)


def report_path(workdir: epath.PathLike) -> epath.Path:
    """Where the report is."""
    return epath.Path(workdir) / "report.html"


def ensure_writable(folder: epath.PathLike) -> None:
    """Creates the folder if need be and proves, with a file, that it takes writes.

    Raises:
      UserError: if it does not, with the reason the system gave.
    """
    probe = epath.Path(folder) / ".writable"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {folder}: {reason}; choose another folder") from error


def write_config(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved config, replacing an older one in a single move."""
    fields = json.dumps(config.to_dict(), indent=2, allow_nan=False)
    _replace_text(config_path(workdir), fields + "\n")


def read_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The run's config, locked. JSON knows no tuples, so every sequence comes back as one.

    Raises:
      UserError: if there is none, or it is not JSON.
    """
    path = config_path(workdir)
    try:
        fields = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"no run in {workdir}: {path.name} is missing; check --workdir, or train there first"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    return ml_collections.ConfigDict(_lists_to_tuples(fields)).lock()


def check_config(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
    """Refuses to go on with a run under a config that no longer fits its weights.

    Other sections may change between restarts (steps, periods, learning rates). A workdir without
    a config passes.

    Raises:
      UserError: naming every field of `FIXED_SECTIONS` that differs.
    """
    if not config_path(workdir).exists():
        return
    old, new = read_config(workdir).to_dict(), _lists_to_tuples(config.to_dict())
    old, new = (
        _flatten({section: fields.get(section, {}) for section in FIXED_SECTIONS})
        for fields in (old, new)
    )
    differing = [
        f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]
    if differing:
        raise UserError(
            f"the run in {workdir} has another {', '.join(differing)}; "
            "undo the change or choose another --workdir"
        )


def append_metrics(workdir: epath.PathLike, records: Iterable[Record]) -> None:
    """Appends records to the run's numbers, in one write.

    A record is ``{"kind": "train", "step": N, "d/hinge": …}`` or ``{"kind": "eval", "step": N,
    "metric": …, "protocol": …, "value": …, "num_samples": …, "seed": …, "weights": …}``. Values may
    be scalars of NumPy or JAX. What is not finite becomes null: JSON has no NaN.
    """
    lines = "".join(json.dumps(_plain(record)) + "\n" for record in records)
    path = metrics_path(workdir)
    # A crash in mid-write leaves a last line without its end: do not glue a good one to it.
    if _ends_in_mid_line(path):
        lines = "\n" + lines
    with path.open("a") as file:
        file.write(lines)


def read_metrics(workdir: epath.PathLike) -> list[Record]:
    """The run's numbers in the order they were written; none if there is no file.

    A line torn by a crash is left out, with a notice on stderr.
    """
    path = metrics_path(workdir)
    if not path.exists():
        return []
    records, torn = [], 0
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            torn += 1
    if torn:
        print(f"{path}: left out {torn} incomplete line(s)", file=sys.stderr)
    return records


def truncate_metrics(workdir: epath.PathLike, step: int) -> None:
    """Drops the training records after a step, in a single move: a resumed run writes them anew.

    Evaluation records stay: they tell of checkpoints that were there.
    """
    if not metrics_path(workdir).exists():
        return
    kept = [r for r in read_metrics(workdir) if r["kind"] != "train" or r["step"] <= step]
    _replace_text(metrics_path(workdir), "".join(json.dumps(record) + "\n" for record in kept))


def _ends_in_mid_line(path: epath.Path) -> bool:
    if not path.exists() or not path.stat().length:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _replace_text(path: epath.Path, text: str) -> None:
    temporary = path.parent / f".{path.name}.new"
    temporary.write_text(text)
    temporary.replace(path)


def _plain(record: Mapping[str, Any]) -> Record:
    plain = {name: x.item() if hasattr(x, "item") else x for name, x in record.items()}
    return {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in plain.items()
    }


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _lists_to_tuples(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_lists_to_tuples(x) for x in value)
    return value


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> Record:
    flat = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
