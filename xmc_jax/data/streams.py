"""Batches from the records of a split, with grain: without end for training, or all of it once.

The training stream is a pure function of the seed and the step: any step can be read directly, and
any number of processes, threads and workers reads the same global batches.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain.python as grain
import numpy as np
from jaxtyping import Bool, Int32, UInt8

from xmc_jax.data.prefetch import ReadAhead
from xmc_jax.data.records import ExampleReader, Examples, Records, Selection, draw_caption
from xmc_jax.types import Batch


class EvalBatch(NamedTuple):
    """This process's rows of a batch of examples; the last batch is padded.

    Attributes:
      image: RGB pixels.
      tokens: Token ids of the drawn caption.
      valid: False at padding.
      index: Place of each row among the examples of all processes; -1 at padding.
      ids: Image ids of the valid examples.
      captions: Their drawn captions.
      caption_indices: Which of its captions each example drew.
    """

    image: UInt8[np.ndarray, "b h w 3"]
    tokens: Int32[np.ndarray, "b t"]
    valid: Bool[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]
    ids: list[str]
    captions: list[str]
    caption_indices: list[int]


def train_batches(
    source: Records,
    tokenizer: Callable[[Sequence[str]], Int32[np.ndarray, "n t"]],
    *,
    resolution: int,
    batch_size: int,
    num_micro_batches: int,
    seed: int,
    start_step: int = 0,
    crop: str = "squash",
    antialias: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
) -> ReadAhead:
    """An endless stream of training steps' batches.

    Each epoch visits every example once, in an order of its own; each visit draws one of the
    example's captions.

    Args:
      source: A split, see `reader.open_split`.
      tokenizer: Of the text encoder.
      resolution: Side of the images.
      batch_size: Examples of one micro-batch, over all processes.
      num_micro_batches: Micro-batches of a step.
      seed: Of the order and the captions.
      start_step: The first step to yield; reaching it costs nothing.
      crop: See `preprocess.resize`.
      antialias: See `preprocess.resize`.
      process_index: This process.
      process_count: How many share the batch; each yields its own rows of it.
      num_workers: Worker processes that read; 0 for threads of this process. Changes no result.

    Returns:
      For each step a `Batch` with leading axes ``[num_micro_batches, batch_size / process_count]``.

    Raises:
      ValueError: the processes cannot share the batch evenly.
    """
    rows = _rows(batch_size, process_index, process_count)
    select = _make_select(len(source), batch_size, num_micro_batches, seed)

    def selections() -> Iterator[Selection]:
        return (select(step, rows) for step in itertools.count(start_step))

    def finish(examples: Examples) -> Batch:
        arrays = examples.image, tokenizer(examples.captions)
        return Batch(*(x.reshape(num_micro_batches, len(rows), *x.shape[1:]) for x in arrays))

    read = ExampleReader(source, resolution, crop, antialias, seed)
    return ReadAhead(read, selections(), finish, num_workers)


def read_train_step(
    source: Records, *, batch_size: int, num_micro_batches: int, seed: int, step: int
) -> list[dict[str, Any]]:
    """What `train_batches` yields for a step, over all processes, to be looked at by people.

    Args:
      source: See `train_batches`.
      batch_size: See `train_batches`.
      num_micro_batches: See `train_batches`.
      seed: See `train_batches`.
      step: Counted as ``start_step`` there.

    Returns:
      ``{"micro_batch", "id", "caption"}`` of each example.
    """
    select = _make_select(len(source), batch_size, num_micro_batches, seed)
    indices, draws = select(step, range(batch_size))
    found = []
    for place, (index, draw) in enumerate(zip(indices, draws, strict=True)):
        record = source[index]
        _, caption = draw_caption(record, seed, draw)
        found.append(
            {"micro_batch": place // batch_size, "id": record["image/id"], "caption": caption}
        )
    return found


def eval_examples(
    source: Records,
    tokenizer: Callable[[Sequence[str]], Int32[np.ndarray, "n t"]],
    *,
    resolution: int,
    batch_size: int,
    num_examples: int,
    seed: int,
    crop: str = "squash",
    antialias: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> ReadAhead:
    """A fixed selection of a split: every example once, with one fixed caption.

    The selection, its order and its captions depend on the seed and `num_examples` alone. Every
    process yields the same number of batches, as collectives need, be it with padding only.

    Args:
      source: A split, see `reader.open_split`.
      tokenizer: Of the text encoder.
      resolution: Side of the images.
      batch_size: Rows of a batch, over all processes; the last one is padded to it.
      num_examples: How many distinct examples; all, if the split has fewer.
      seed: Of the selection and the captions.
      crop: See `preprocess.resize`.
      antialias: See `preprocess.resize`.
      process_index: This process.
      process_count: How many share each batch; each yields its own rows of it.

    Returns:
      `EvalBatch`es.

    Raises:
      ValueError: the processes cannot share the batch evenly.
    """
    rows = _rows(batch_size, process_index, process_count)
    chosen = choose_examples(len(source), num_examples, seed)
    starts = range(rows.start, len(chosen) + rows.start, batch_size)
    places = [range(start, min(start + len(rows), len(chosen))) for start in starts]

    def selections() -> Iterator[Selection]:
        for own in places:
            # Padding repeats the last row, which every model can digest; without any, it is read.
            indices = [chosen[place] for place in own] or [chosen[-1]]
            yield Selection(indices, indices)

    in_turn = iter(places)

    def finish(examples: Examples) -> EvalBatch:
        own = next(in_turn)
        count, tokens = len(own), tokenizer(examples.captions)
        return EvalBatch(
            image=_repeat_last(examples.image, len(rows)),
            tokens=_repeat_last(tokens, len(rows)),
            valid=np.arange(len(rows)) < count,
            index=np.int32([*own] + [-1] * (len(rows) - count)),
            ids=examples.ids[:count],
            captions=examples.captions[:count],
            caption_indices=examples.caption_indices[:count],
        )

    read = ExampleReader(source, resolution, crop, antialias, seed)
    return ReadAhead(read, selections(), finish)


def choose_examples(num_records: int, num_examples: int, seed: int) -> list[int]:
    """Which records of a split are evaluated, and in which order: a prefix of one permutation."""
    return np.random.default_rng(seed).permutation(num_records)[:num_examples].tolist()


def _make_select(
    num_examples: int, batch_size: int, num_micro_batches: int, seed: int
) -> Callable[[int, range], Selection]:
    """What to read for some rows of each of a training step's micro-batches."""
    # Indexing it is random access: a shuffle is a permutation, a repeat a new one.
    order = grain.MapDataset.range(num_examples).seed(seed).shuffle().repeat()

    def select(step: int, rows: range) -> Selection:
        micro_batches = range(step * num_micro_batches, (step + 1) * num_micro_batches)
        places = [m * batch_size + row for m in micro_batches for row in rows]
        return Selection([int(order[place]) for place in places], places)

    return select


def _rows(batch_size: int, process_index: int, process_count: int) -> range:
    """Which rows of a global batch a process reads."""
    count, left = divmod(batch_size, process_count)
    if left or not 0 <= process_index < process_count:
        raise ValueError(f"{batch_size} rows are not for process {process_index}/{process_count}")
    return range(process_index * count, (process_index + 1) * count)


def _repeat_last(rows: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])
