"""The training stream: batches of a split without end, shuffled with grain.

The stream is a pure function of the seed and the step. Any step can be read directly, and any
number of processes, threads and workers reads the same global batches.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import grain.python as grain
import numpy as np
from jaxtyping import Int32

from xmc_jax.data.prefetch import ReadAhead
from xmc_jax.data.records import ExampleReader, Examples, Records, Selection, select_captions
from xmc_jax.types import Batch


def train_batches(
    source: Records,
    tokenizer: Callable[[Sequence[str]], Int32[np.ndarray, "n t"]],
    *,
    resolution: int,
    batch_size: int,
    num_micro_batches: int,
    seed: int,
    longest_until: int = 0,
    start_step: int = 0,
    crop: str = "squash",
    antialias: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
) -> ReadAhead:
    """An endless stream of the batches of training steps.

    Each epoch visits every example once, in its own order; each visit selects one of the example's
    captions.

    Args:
      source: A split, see `catalog.open_split`.
      tokenizer: The tokenizer of the text encoder.
      resolution, crop, antialias: See `preprocess.resize`.
      batch_size: Examples of one micro-batch, over all processes.
      num_micro_batches: Micro-batches of a step.
      seed: Decides the order of the examples and the captions.
      longest_until: Steps before this one take each example's longest caption, by words, the others
        any of its captions.
      start_step: The first step to yield; reaching it costs nothing.
      process_index: Index of this process.
      process_count: Number of processes that share the batch; each yields its own rows of it.
      num_workers: Worker processes that read; 0 for threads of this process. Changes no result.

    Returns:
      For each step a `Batch` with leading axes ``[num_micro_batches, batch_size / process_count]``.

    Raises:
      ValueError: the batch cannot be divided evenly among the processes.
    """
    num_rows, rest = divmod(batch_size, process_count)
    if rest or not 0 <= process_index < process_count:
        raise ValueError(
            f"process {process_index} of {process_count} has no whole share of {batch_size} rows"
        )
    rows = range(process_index * num_rows, (process_index + 1) * num_rows)
    select = _make_select(len(source), batch_size, num_micro_batches, seed, longest_until)

    def finish(examples: Examples) -> Batch:
        arrays = examples.image, tokenizer(examples.captions)
        return Batch(*(x.reshape(num_micro_batches, num_rows, *x.shape[1:]) for x in arrays))

    read = ExampleReader(source, resolution, crop, antialias, seed)
    selections = (select(step, rows) for step in itertools.count(start_step))
    return ReadAhead(read, selections, finish, num_workers)


def read_train_step(
    source: Records,
    *,
    batch_size: int,
    num_micro_batches: int,
    seed: int,
    longest_until: int = 0,
    step: int,
) -> list[dict[str, Any]]:
    """The examples of one step of `train_batches`, over all processes, for people to look at.

    Arguments as in `train_batches`; `step` is counted like its ``start_step``. Returns
    ``{"micro_batch", "id", "caption"}`` of each example.
    """
    select = _make_select(len(source), batch_size, num_micro_batches, seed, longest_until)
    selection = select(step, range(batch_size))
    records = [source[index] for index in selection.indices]
    captions = select_captions(records, selection, seed)
    return [
        {"micro_batch": row // batch_size, "id": record["image/id"], "caption": caption}
        for row, (record, caption) in enumerate(zip(records, captions, strict=True))
    ]


def choose_examples(num_records: int, num_examples: int, seed: int) -> list[int]:
    """Indices of records of a split, in random order: a prefix of one permutation for each seed.

    Gives all records if there are fewer than `num_examples`.
    """
    return np.random.default_rng(seed).permutation(num_records)[:num_examples].tolist()


def _make_select(
    num_examples: int, batch_size: int, num_micro_batches: int, seed: int, longest_until: int
) -> Callable[[int, range], Selection]:
    """Returns ``select(step, rows)``: the records of some rows of a step's micro-batches."""
    # Indexing it is random access: a shuffle is a permutation, a repeat is another one.
    order = grain.MapDataset.range(num_examples).seed(seed).shuffle().repeat()

    def select(step: int, rows: range) -> Selection:
        micro_batches = range(step * num_micro_batches, (step + 1) * num_micro_batches)
        places = [m * batch_size + row for m in micro_batches for row in rows]
        return Selection([int(order[place]) for place in places], places, step < longest_until)

    return select
