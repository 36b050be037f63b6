"""Builds on Apache Beam, whose workers convert images on this machine or in a cloud.

Beam is an optional dependency, so it is imported when it is used. The work is written to files
beside the records: Dataflow refuses a pipeline that carries half a million examples.
"""

import functools
import heapq
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from xmc_jax.errors import UserError, reason

PTransform = Any  # Types of Beam.
PipelineResult = Any
NUM_NAMED = 3  # Lost examples that are named; the others are only counted.

_GROUPS_PER_FILE = 1000
_TALLIES = "tallies"
_Tally = tuple[dict[str, int], list[tuple[int, str]]]  # Counts, and indices and names of losses.


def make_options(runner: str, options: Sequence[str]) -> dict[str, Any]:
    """The arguments of TFDS's `DownloadConfig` that make it run Beam.

    Args:
      runner: Name of a runner; there are no arguments if empty.
      options: Options of the pipeline, each ``"key=value"`` or ``"key"``.

    Raises:
      UserError: Beam is not installed, or it has no such runner.
    """
    if not runner:
        return {}
    try:  # Imported here: Beam is optional.
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            f"Apache Beam is not installed ({reason(error)}); pip install 'apache-beam[gcp]'"
        ) from error
    try:
        made = create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"no Beam runner {runner!r}: {reason(error)}") from error
    return {
        "beam_runner": made,
        "beam_options": PipelineOptions([f"--{option}" for option in options]),
    }


def make_transform(
    groups: Iterable[tuple],
    make_records: Callable[[list], Iterator[tuple]],
    folder: os.PathLike,
    name: str,
) -> PTransform:
    """A pipeline from groups of examples to records; it leaves its counts for `pop_tally`.

    Args:
      groups: Values that can be written as JSON; one worker does all of a group.
      make_records: From a group, read from JSON, to the index of each example, its record or None,
        what to add to the counts, and the name of the lost example. Workers import it by its name.
      folder: Folder of the data set; every worker must be able to read and write there.
      name: Name of the split.
    """
    import apache_beam as beam  # Optional.

    files, work = [], _work(folder, name)
    work.mkdir(parents=True, exist_ok=True)
    groups = iter(groups)
    while chunk := list(itertools.islice(groups, _GROUPS_PER_FILE)):
        files.append(work / f"{len(files):05d}.jsonl")
        files[-1].write_text("".join(f"{json.dumps(group)}\n" for group in chunk))

    @beam.ptransform_fn
    def transform(pipeline):
        outcomes = (
            pipeline
            | "Files" >> beam.Create([os.fspath(path) for path in files])
            | "Groups" >> beam.FlatMap(_read_groups)
            | "Spread" >> beam.Reshuffle()
            | "Convert"
            >> beam.FlatMap(functools.partial(_sort_out, make_records)).with_outputs(
                _TALLIES, main="records"
            )
        )
        _ = (
            outcomes[_TALLIES]
            | "Count" >> beam.CombineGlobally(_merge)
            | "Tally" >> beam.Map(functools.partial(_write_tally, os.fspath(work)))
        )
        return outcomes["records"]

    return transform()


def pop_tally(folder: os.PathLike, name: str) -> tuple[dict[str, int], list[str]]:
    """The counts of a split's pipeline and its first lost examples; removes the files."""
    work = _work(folder, name)
    counts, lost = json.loads((work / _TALLIES).read_text())
    work.rmtree()
    return counts, [loss for _, loss in lost]


def _work(folder: os.PathLike, name: str) -> epath.Path:
    return epath.Path(folder) / f"beam_{name}"


def _read_groups(path: str) -> Iterator[list]:
    with epath.Path(path).open() as file:
        yield from map(json.loads, file)


def _sort_out(make_records: Callable[[list], Iterator[tuple]], group: list) -> Iterator[Any]:
    """Records with their indices, and counts for a separate output."""
    from apache_beam.pvalue import TaggedOutput  # Optional.

    for index, record, counts, loss in make_records(group):
        if record:
            yield index, record
        lost = [] if record else [(index, loss)]
        yield TaggedOutput(_TALLIES, ({k: int(v) for k, v in counts.items()}, lost))


def _merge(tallies: Iterable[_Tally]) -> _Tally:
    """The sum of tallies; the same for any order and grouping in which Beam merges them."""
    counts, lost = Counter(), []
    for more, others in tallies:
        counts.update(more)
        lost = heapq.nsmallest(NUM_NAMED, [*lost, *others])
    return dict(counts), lost


def _write_tally(work: str, tally: _Tally) -> None:
    (epath.Path(work) / _TALLIES).write_text(json.dumps(tally))
