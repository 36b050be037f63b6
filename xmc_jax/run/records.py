"""The numbers of a run, ``metrics.jsonl``: one JSON object a line, appended and never changed.

Three kinds of records have ``kind`` and ``step`` in common:

* ``start``: training began or was resumed after ``step``; `environment.describe` gives the rest;
* ``train``: the metrics of a training step by their names (``d/hinge``, …);
* ``eval``: one number of an evaluation, see `MetricRecord`.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from etils import epath

from xmc_jax import files
from xmc_jax.run.folder import metrics_path

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """One number of an evaluation, with all that it depends on.

    Attributes:
      metric: Its name, ``family`` or ``family/part``; numbers are compared under one name only.
      protocol: Everything besides the model that changes the number, in words.
      value: The number; None if it is not finite.
      floor: The number that a generator which ignores captions (or images at random) would get.
      ceiling: The number of real images.
      low: Lower end of the value's interval; the protocol says which interval.
      high: Its upper end.
      floor_low, floor_high, ceiling_low, ceiling_high: Likewise.
      better: Whether higher or lower values are better.
      num_samples: Generated images behind the number.
      claims: Claims of captions behind the number, for metrics that count them.
      classes: Counts by class of object, for metrics that count them.
      weights: Fingerprint of the network that measured, or None.
      step: Training step of the generator.
      generator: Fingerprint of the generator's weights.
      split: Split that captions and real images are from.
      seed: Chose the captions and the noise.
    """

    step: int
    metric: str
    protocol: str
    value: float | None
    num_samples: int | None
    seed: int | None = None
    weights: str | None = None
    floor: float | None = None
    ceiling: float | None = None
    better: Literal["higher", "lower"] | None = None
    generator: str | None = None
    split: str | None = None
    low: float | None = None
    high: float | None = None
    floor_low: float | None = None
    floor_high: float | None = None
    ceiling_low: float | None = None
    ceiling_high: float | None = None
    claims: int | None = None
    classes: Mapping[str, Any] | None = None

    @property
    def family(self) -> str:
        """The metric's name up to a slash, as ``--metrics`` takes it."""
        return self.metric.partition("/")[0]

    @property
    def key(self) -> tuple[str, str, str]:
        """Records with equal keys measure the same thing: metric, protocol, weights."""
        return self.metric, self.protocol, self.weights or ""

    def to_json(self) -> Record:
        """The record as a line of the file has it: fields that do not apply are left out."""
        fields = _plain(dataclasses.asdict(self))
        return {"kind": "eval"} | {
            name: value
            for name, value in fields.items()
            if value is not None or name not in _LEFT_OUT_IF_NONE
        }

    @classmethod
    def from_json(cls, record: Record) -> "MetricRecord | None":
        """The evaluation behind a record; None if it is of another kind or lacks a field.

        Fields that this version does not know are dropped.
        """
        fields = {name: record[name] for name in _TYPES if name in record}
        if record.get("kind") != "eval" or not _REQUIRED <= fields.keys():
            return None
        if not all(isinstance(value, _TYPES[name]) for name, value in fields.items()):
            return None
        return cls(**fields)


_NUMBER = int | float | None
_TYPES = {
    field.name: {
        "step": int,
        "metric": str,
        "protocol": str,
        "better": str | None,
        "weights": str | None,
        "generator": str | None,
        "split": str | None,
        "classes": Mapping | None,
    }.get(field.name, _NUMBER)
    for field in dataclasses.fields(MetricRecord)
}
_REQUIRED = {"step", "metric", "protocol", "value", "num_samples", "seed", "weights"}
_LEFT_OUT_IF_NONE = {
    "low",
    "high",
    "floor_low",
    "floor_high",
    "ceiling_low",
    "ceiling_high",
    "claims",
    "classes",
}


def evaluations(records: Iterable[Record]) -> list[MetricRecord]:
    """The evaluations among records, in their order."""
    return [found for record in records if (found := MetricRecord.from_json(record))]


def latest_evaluations(records: Iterable[Record], *, step: int | None = None) -> list[MetricRecord]:
    """The newest number of every metric under every protocol and set of weights, by name.

    A later checkpoint replaces an earlier one; of one checkpoint's numbers the last written counts.

    Args:
      records: Of any kind.
      step: Only numbers of this checkpoint.
    """
    latest: dict[tuple, MetricRecord] = {}
    for found in evaluations(records):
        if step in (None, found.step) and (
            found.key not in latest or found.step >= latest[found.key].step
        ):
            latest[found.key] = found
    return [latest[key] for key in sorted(latest)]


def append_metrics(workdir: epath.PathLike, records: Iterable[Record]) -> None:
    """Appends records to the run's numbers, in one write.

    Values may be scalars of NumPy or JAX. What is not finite becomes null: JSON has no NaN.

    Raises:
      UserError: see `append_lines`.
    """
    append_lines(metrics_path(workdir), [json.dumps(_plain(record)) for record in records])


def append_lines(path: epath.PathLike, lines: Iterable[str]) -> None:
    """Appends lines to a file, in one write.

    Raises:
      UserError: the file cannot be written.
    """
    path, text = epath.Path(path), "".join(f"{line}\n" for line in lines)
    with files.writing(path, then="start again: training resumes from the last checkpoint"):
        # A crash in mid-write leaves a last line without its end: the next one must not join it.
        if _ends_in_mid_line(path):
            text = f"\n{text}"
        with path.open("a") as file:
            file.write(text)


def read_metrics(workdir: epath.PathLike) -> list[Record]:
    """The run's numbers in the order they were written; none if there is no file.

    A line torn by a crash, or damaged, is left out, with a notice on stderr.
    """
    return read_lines(metrics_path(workdir), {"kind": str, "step": int})


def read_lines(path: epath.PathLike, fields: Mapping[str, type]) -> list[Record]:
    """The JSON objects of a file with one a line that have some fields; none without a file.

    Args:
      path: The file.
      fields: The types of the fields that an object must have; others are left out, with a notice.
    """
    path = epath.Path(path)
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


def truncate_metrics(workdir: epath.PathLike, step: int) -> None:
    """Drops the training records after a step, in a single move: a resumed run repeats them.

    Other records stay: evaluations belong to checkpoints that existed.

    Raises:
      UserError: the file cannot be written.
    """
    path = metrics_path(workdir)
    if not path.exists():
        return
    kept = [r for r in read_metrics(workdir) if r["kind"] != "train" or r["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    files.write_whole(path, text.encode())


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
