"""Builds on Apache Beam: pictures converted by whichever worker has time, here or in a cloud.

Beam is an extra that few need, and is imported when asked for. What is to be done lies in files
beside the records: a pipeline that carries half a million examples is more than Dataflow takes.
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

from xmc_jax.errors import UserError

PTransform = Any  # Of Beam, which need not be there.
PipelineResult = Any
SHOWN = 3  # Losses that are named; the others are only counted.

_GROUPS_PER_FILE = 1000
_TALLIES = "tallies"
_Tally = tuple[dict[str, int], list[tuple[int, str]]]  # Counts; and losses, each with its index.


def make_options(runner: str, options: Sequence[str]) -> dict[str, Any]:
    """How TFDS is to run Beam: the arguments of its `DownloadConfig`.

    Args:
      runner: Name of a runner; nothing is asked of TFDS if empty.
      options: Of the pipeline, each ``"key=value"`` or ``"key"``.

    Raises:
      UserError: Beam or the runner is not there.
    """
    if not runner:
        return {}
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            f"Apache Beam is not installed ({error}); pip install 'apache-beam[gcp]'"
        ) from error
    try:
        made = create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"no Beam runner {runner!r}: {error}") from error
    return {
        "beam_runner": made,
        "beam_options": PipelineOptions([f"--{option}" for option in options]),
    }


def make_transform(
    groups: Iterable[tuple],
    judge: Callable[[list], Iterator[tuple]],
    folder: os.PathLike,
    name: str,
) -> PTransform:
    """A pipeline from groups of examples to records; what it counted is left for `pop_tally`.

    Args:
      groups: What can be written as JSON, and is done together.
      judge: From a group, out of JSON, to the index of each example, its record or None, what it
        adds to the counts, and how to name the loss. Must be known to workers by its name.
      folder: Of the data set; every worker must be able to read and write there.
      name: Of the split.
    """
    import apache_beam as beam

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
            >> beam.FlatMap(functools.partial(_sort_out, judge)).with_outputs(
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
    """What the pipeline of a split counted, and its first losses; removes its files."""
    work = _work(folder, name)
    counts, lost = json.loads((work / _TALLIES).read_text())
    work.rmtree()
    return counts, [loss for _, loss in lost]


def _work(folder: os.PathLike, name: str) -> epath.Path:
    return epath.Path(folder) / f"beam_{name}"


def _read_groups(path: str) -> Iterator[list]:
    with epath.Path(path).open() as file:
        yield from map(json.loads, file)


def _sort_out(judge: Callable[[list], Iterator[tuple]], group: list) -> Iterator[Any]:
    """Records with their index; and what is to be counted, to an output of its own."""
    from apache_beam.pvalue import TaggedOutput

    for index, record, counts, loss in judge(group):
        if record:
            yield index, record
        lost = [] if record else [(index, loss)]
        yield TaggedOutput(_TALLIES, ({k: int(v) for k, v in counts.items()}, lost))


def _merge(tallies: Iterable[_Tally]) -> _Tally:
    """The sum of tallies, in whatever order and however often Beam merges them."""
    counts, lost = Counter(), []
    for more, others in tallies:
        counts.update(more)
        lost = heapq.nsmallest(SHOWN, [*lost, *others])
    return dict(counts), lost


def _write_tally(work: str, tally: _Tally) -> None:
    (epath.Path(work) / _TALLIES).write_text(json.dumps(tally))
