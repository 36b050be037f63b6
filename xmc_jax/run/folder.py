"""The folder of a run: what lies where in it, and how its two text files are written and read.

    config.json              the resolved config, written when the run starts
    metrics.jsonl            one line a record; training appends to it, and so does evaluation
    nonfinite.jsonl          steps whose losses or gradients were not finite, see `nonfinite.py`
    samples/                 captions.json and one grid of samples a time, step_00001000.png
    checkpoints/<step>/      see `checkpoint.py`
    best/<step>/             the checkpoint that `config.eval.best_metric` likes best
    evaluation/              what an evaluation that goes on, or was killed, has done so far
    report.html              see `report.py`

Every path may be local or remote (``gs://…``).
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
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


def nonfinite_path(workdir: epath.PathLike) -> epath.Path:
    """Where the steps that were not finite are, one JSON object a line."""
    return epath.Path(workdir) / "nonfinite.jsonl"


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


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """Makes one line of what hinders a file of the run to be written.

    Raises:
      UserError: the disk is full, the folder is gone or takes no writes, …
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; mend that and start again: the run "
            "goes on from its last checkpoint"
        ) from error


def write_whole(path: epath.Path, data: bytes) -> None:
    """Writes a file, or replaces it, in a single move: nobody ever sees a part of it.

    Raises:
      UserError: see `writing`.
    """
    temporary = path.parent / f".{path.name}.new"
    with writing(path):
        temporary.write_bytes(data)
        temporary.replace(path)


def write_config(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved config, replacing an older one in a single move."""
    fields = json.dumps(config.to_dict(), indent=2, allow_nan=False)
    write_whole(config_path(workdir), f"{fields}\n".encode())


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
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _broken_config(path, f"is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _broken_config(path, "holds no fields")
    return ml_collections.ConfigDict(_lists_to_tuples(fields)).lock()


def _broken_config(path: epath.Path, fault: str) -> UserError:
    return UserError(
        f"{path} {fault}; bring it back from a copy, or remove it: the next start of training "
        "writes it anew"
    )


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
        flatten({section: fields.get(section, {}) for section in FIXED_SECTIONS})
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
    "metric": …, "protocol": …, "value": …, "num_samples": …, "seed": …, "weights": …}`` or, each
    time that training starts, ``{"kind": "start", "step": N, …}`` with what `environment.describe`
    tells. Values may be scalars of NumPy or JAX. What is not finite becomes null: JSON has no NaN.
    """
    append_lines(metrics_path(workdir), [json.dumps(_plain(record)) for record in records])


def append_lines(path: epath.Path, lines: Iterable[str]) -> None:
    """Appends lines to a file, in one write.

    Raises:
      UserError: see `writing`.
    """
    text = "".join(f"{line}\n" for line in lines)
    with writing(path):
        # A crash in mid-write leaves a last line without its end: do not glue a good one to it.
        if _ends_in_mid_line(path):
            text = f"\n{text}"
        with path.open("a") as file:
            file.write(text)


def read_metrics(workdir: epath.PathLike) -> list[Record]:
    """The run's numbers in the order they were written; none if there is no file.

    A line torn by a crash, or damaged, is left out, with a notice on stderr.
    """
    return read_records(metrics_path(workdir), {"kind": str, "step": int})


def read_records(path: epath.Path, fields: Mapping[str, type]) -> list[Record]:
    """The objects of a file with one a line, those that have some fields; none without a file."""
    if not path.exists():
        return []
    records, torn = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and all(
            isinstance(record.get(name), kind) for name, kind in fields.items()
        ):
            records.append(record)
        elif line:
            torn.append(number)
    if torn:
        places = ", ".join(map(str, torn[:5])) + ", …" * (len(torn) > 5)
        print(f"notice: {path}: left out {len(torn)} incomplete line(s): {places}", file=sys.stderr)
    return records


def is_evaluation(record: Record) -> bool:
    """Whether a record is an evaluation's, with all that tables and curves of them need."""
    texts, numbers = ("metric", "protocol"), ("value", "floor", "ceiling", "num_samples")
    return (
        record["kind"] == "eval"
        and all(isinstance(record.get(name), str) for name in texts)
        and {"value", "weights", "num_samples", "seed"} <= record.keys()
        and isinstance(record["weights"], str | None)
        and all(isinstance(record.get(name), int | float | None) for name in numbers)
    )


def latest_evaluations(records: Iterable[Record]) -> list[Record]:
    """The newest number of every metric under every protocol and set of weights, by name.

    A metric of a later checkpoint replaces that of an earlier one; of one checkpoint's numbers the
    last written counts. Other kinds of records are left out.
    """
    latest: dict[tuple, Record] = {}
    for record in records:
        if is_evaluation(record):
            key = (record["metric"], record["protocol"], record.get("weights"))
            if key not in latest or record["step"] >= latest[key]["step"]:
                latest[key] = {"floor": None, "ceiling": None} | record
    return [latest[key] for key in sorted(latest, key=str)]


def truncate_metrics(workdir: epath.PathLike, step: int) -> None:
    """Drops the training records after a step, in a single move: a resumed run writes them anew.

    Other records stay: evaluations tell of checkpoints that were there.
    """
    if not metrics_path(workdir).exists():
        return
    kept = [r for r in read_metrics(workdir) if r["kind"] != "train" or r["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    write_whole(metrics_path(workdir), text.encode())


def flatten(fields: Mapping[str, Any], prefix: str = "") -> Record:
    """Fields of sections under one name each, ``section.field``, in their order."""
    flat = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _ends_in_mid_line(path: epath.Path) -> bool:
    if not path.exists() or not path.stat().length:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


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
