"""The numbers of a run, ``metrics.jsonl``: one JSON object on each line, appended, never changed.

Every line has ``kind`` and ``step``. There are four kinds:

* ``start``: training began, or was resumed after ``step``; the rest is `environment.describe`;
* ``train``: the metrics of a training step by their names (``d/hinge``, …);
* ``probe``: shares of images whose discriminator prefers their captions to swapped ones by their
  names (``probe/sentence/colour``, …), see `training.probe`;
* ``eval``: one number of an evaluation, see `MetricRecord`.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from xmc_jax import files
from xmc_jax.console import notice
from xmc_jax.run.folder import metrics_path

Record = dict[str, Any]
Number = int | float

TRAINING_KINDS = ("train", "probe")  # Kinds that a resumed run writes again.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """One number of an evaluation, with everything that it depends on.

    Fields without a default are in every line of the file. Numbers that are not finite become None,
    as JSON has no NaN.

    Attributes:
      step: Training step of the generator.
      generator: Fingerprint of the generator's weights.
      split: Split that the captions and the real images are from.
      num_samples: Number of generated images that were measured.
      seed: Chose the captions and the noise.
      metric: Name of the number: a metric, or ``metric/part`` where a metric has several numbers.
      protocol: In words, everything besides the generator that changes the number.
      value: The number.
      low, high: Interval of `value`; the protocol says which interval.
      floor: The number of a generator that ignores captions, or of other real images.
      floor_low, floor_high: Interval of `floor`.
      ceiling: The number of real images.
      ceiling_low, ceiling_high: Interval of `ceiling`.
      chance: The number of random guesses.
      claims: Number of claims in captions that were verified.
      classes: ``{class: (hits, captions)}``, for metrics that are means over classes.
      weights: Fingerprint of the network that measured; None if none did.
      better: Which values are better, ``"higher"`` or ``"lower"``.
    """

    step: int
    generator: str | None = None
    split: str | None = None
    num_samples: Number | None
    seed: int | None = None
    metric: str
    protocol: str
    value: Number | None
    low: Number | None = None
    high: Number | None = None
    floor: Number | None = None
    floor_low: Number | None = None
    floor_high: Number | None = None
    ceiling: Number | None = None
    ceiling_low: Number | None = None
    ceiling_high: Number | None = None
    chance: Number | None = None
    claims: Number | None = None
    classes: Mapping | None = None
    weights: str | None
    better: str | None = None

    def __post_init__(self):
        for name, value in _plain(vars(self)).items():
            object.__setattr__(self, name, value)

    @property
    def key(self) -> tuple[str, str, str]:
        """Metric, protocol, weights: only records with equal keys can be compared."""
        return self.metric, self.protocol, self.weights or ""

    @property
    def family(self) -> str:
        """The name of the metric without the part, as ``--metrics`` takes it."""
        return self.metric.partition("/")[0]

    def to_json(self) -> Record:
        """The line of the file. Fields in `_ONLY_IF_GIVEN` are left out if they are None."""
        return {"kind": "eval"} | {
            name: value
            for name, value in vars(self).items()
            if value is not None or name not in _ONLY_IF_GIVEN
        }

    @classmethod
    def from_json(cls, line: Record) -> "MetricRecord | None":
        """The record in a line of the file; None if the line is not a complete evaluation.

        A line of another version may have fields that are unknown here, and lack fields that have a
        default here. A value of the wrong type counts as absent.
        """
        fields = {
            field.name: line[field.name]
            for field in dataclasses.fields(cls)
            if field.name in line and isinstance(line[field.name], field.type)
        }
        is_complete = line.get("kind") == "eval" and _REQUIRED <= fields.keys()
        return cls(**fields) if is_complete else None


_REQUIRED = {
    field.name for field in dataclasses.fields(MetricRecord) if field.default is dataclasses.MISSING
}
_ONLY_IF_GIVEN = {"low", "high", "floor_low", "floor_high", "ceiling_low", "ceiling_high"}
_ONLY_IF_GIVEN |= {"chance", "claims", "classes"}


def evaluations(records: Iterable[Record]) -> list[MetricRecord]:
    """The evaluations among lines of the file, in their order."""
    return [found for record in records if (found := MetricRecord.from_json(record))]


def latest_evaluations(records: Iterable[Record], *, step: int | None = None) -> list[MetricRecord]:
    """The newest record of each `MetricRecord.key` (of this step, if given), sorted by key.

    The record of the latest checkpoint counts; of several records of one checkpoint, the last one.
    """
    found = [record for record in evaluations(records) if step in (None, record.step)]
    latest = {record.key: record for record in sorted(found, key=lambda record: record.step)}
    return [latest[key] for key in sorted(latest)]


def append_metrics(workdir: epath.PathLike, records: Iterable[Record]) -> None:
    """Appends records to the run's numbers; writes and raises errors as `append_lines`.

    Values may be scalars of NumPy or JAX. Numbers that are not finite become null.
    """
    append_lines(metrics_path(workdir), [json.dumps(_plain(record)) for record in records])


def append_lines(path: epath.PathLike, lines: Iterable[str]) -> None:
    """Appends lines to a file, in one write; a UserError if the file cannot be written."""
    path, text = epath.Path(path), "".join(f"{line}\n" for line in lines)
    with files.writing(path, then="start again: the same command resumes"):
        # After a crash in the middle of a write, the last line lacks its newline.
        if _lacks_last_newline(path):
            text = f"\n{text}"
        with path.open("a") as file:
            file.write(text)


def read_metrics(workdir: epath.PathLike) -> list[Record]:
    """The run's numbers in the order in which they were written; empty without a file.

    A damaged line, or one that a crash cut off, is left out, with a notice on stderr.
    """
    return read_lines(metrics_path(workdir), {"kind": str, "step": int})


def read_lines(path: epath.PathLike, fields: Mapping[str, type]) -> list[Record]:
    """The JSON objects of a file that has one on each line; empty without a file.

    Lines that lack an object with these fields, given with their types, are left out, with a notice
    on stderr.
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
        notice(f"{path}: left out {len(torn)} incomplete line(s): {places}")
    return records


def truncate_metrics(workdir: epath.PathLike, step: int) -> None:
    """Drops records of `TRAINING_KINDS` after a step, in a single move: a resumed run repeats them.

    Records of other kinds stay: an evaluation is true of its checkpoint in any case. A UserError if
    the file cannot be written.
    """
    path = metrics_path(workdir)
    if not path.exists():
        return
    records = read_metrics(workdir)
    kept = [r for r in records if r["kind"] not in TRAINING_KINDS or r["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    files.write_whole(path, text.encode())


def _lacks_last_newline(path: epath.Path) -> bool:
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
