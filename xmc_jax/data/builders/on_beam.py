"""Builds on Apache Beam, whose workers convert images on this machine or in a cloud.

Beam is optional: `captioned.load_beam` imports this module. The work is written to files beside the
records: Dataflow refuses a pipeline that carries half a million examples.
"""

import functools
import heapq
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner
from etils import epath

from xmc_jax.data.builders import captioned, images
from xmc_jax.errors import UserError, reason

_GROUPS_PER_FILE = 1000
_TALLIES = "tallies"
_Tally = tuple[dict[str, int], list[tuple[int, str]]]  # Counts, and indices and names of losses.


def make_options(runner: str, options: Sequence[str]) -> dict[str, Any]:
    """The arguments of TFDS's `DownloadConfig` that make it run Beam.

    `options` are those of the pipeline, each ``"key=value"`` or ``"key"``. Raises UserError if
    there is no such runner.
    """
    try:
        made = create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"no Beam runner {runner!r}: {reason(error)}") from error
    pipeline_options = PipelineOptions([f"--{option}" for option in options])
    return {"beam_runner": made, "beam_options": pipeline_options}


def make_transform(
    builder: captioned.Builder, name: str, examples: Sequence[captioned.Example]
) -> beam.PTransform:
    """A pipeline to the records of a split; it leaves its counts for `pop_tally`.

    One worker converts an image for all examples that share it. Workers import the builder's
    `is_short` by its name, and must be able to read and write in its folder.
    """
    groups: dict[images.Location | str | None, list] = {}
    for index, x in enumerate(examples):
        groups.setdefault(x.location, []).append((index, x.image_id, x.captions))
    files, work = [], _work(builder.data_path, name)
    work.mkdir(parents=True, exist_ok=True)
    unwritten = iter(groups.items())
    while chunk := list(itertools.islice(unwritten, _GROUPS_PER_FILE)):
        files.append(work / f"{len(files):05d}.jsonl")
        files[-1].write_text("".join(f"{json.dumps(group)}\n" for group in chunk))
    convert = functools.partial(_convert_group, builder.form, builder.is_short)

    @beam.ptransform_fn
    def transform(pipeline):
        outcomes = (
            pipeline
            | "Files" >> beam.Create([os.fspath(path) for path in files])
            | "Groups" >> beam.FlatMap(_read_groups)
            | "Spread" >> beam.Reshuffle()
            | "Convert" >> beam.FlatMap(convert).with_outputs(_TALLIES, main="records")
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


def _convert_group(
    form: str, is_short: Callable[[Sequence[str]], bool], group: list
) -> Iterator[Any]:
    """The records of an image with their indices, and counts for a separate output."""
    image, examples = group
    if isinstance(image, list):  # A `Location`, read from JSON.
        image = images.convert_at(images.Location(*image), form)
    for index, image_id, captions in examples:
        example = captioned.Example(image_id, None, captions)
        record, counts, loss = captioned.make_record(example, image, is_short)
        if record:
            yield index, record
        lost = [] if record else [(index, loss)]
        yield beam.pvalue.TaggedOutput(_TALLIES, ({k: int(v) for k, v in counts.items()}, lost))


def _merge(tallies: Iterable[_Tally]) -> _Tally:
    """The sum of tallies; the same for any order and grouping in which Beam merges them."""
    counts, lost = Counter(), []
    for more, others in tallies:
        counts.update(more)
        lost = heapq.nsmallest(captioned.NUM_NAMED, [*lost, *others])
    return dict(counts), lost


def _write_tally(work: str, tally: _Tally) -> None:
    (epath.Path(work) / _TALLIES).write_text(json.dumps(tally))
