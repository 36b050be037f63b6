"""Sets of pictures that need not fit in memory, shared among the processes of a run."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from xmc_jax.console import Progress
from xmc_jax.data.prefetch import ReadAhead
from xmc_jax.data.records import ExampleReader, Examples, Selection
from xmc_jax.parallel import processes

T = TypeVar("T")
Pixels = UInt8[np.ndarray, "b h w 3"]


@dataclasses.dataclass(frozen=True)
class ProcessShards:
    """How processes share a set of items: of each batch in turn, every process has its rows.

    Attributes:
      batch_size: Items of a batch, over all processes, which divide it.
      process_index: This process.
      process_count: How many share.
    """

    batch_size: int
    process_index: int = 0
    process_count: int = 1

    def ranges(self, count: int, process_index: int | None = None) -> list[range]:
        """For each batch, which of the items a process has (this one, by default): maybe none."""
        index = self.process_index if process_index is None else process_index
        rows = self.batch_size // self.process_count
        starts = range(index * rows, count + index * rows, self.batch_size)
        return [range(min(start, count), min(start + rows, count)) for start in starts]

    def own(self, items: Sequence[T]) -> list[T]:
        """This process's share of a list, in its order."""
        return [items[i] for part in self.ranges(len(items)) for i in part]

    def gather(
        self, rows: Shaped[np.ndarray, "own *shape"], count: int
    ) -> Shaped[np.ndarray, "count *shape"]:
        """Every process's rows, in the order of the items; all processes must call it.

        Args:
          rows: One for each item of this process's share.
          count: Items of all shares.
        """
        shares = [
            [i for part in self.ranges(count, process) for i in part]
            for process in range(self.process_count)
        ]
        longest = max(map(len, shares))
        padded = np.zeros((longest, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        whole = np.empty((count, *rows.shape[1:]), rows.dtype)
        for share, part in zip(shares, processes.gather(padded), strict=True):
            whole[share] = part[: len(share)]
        return whole


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A set of pictures, read batch by batch.

    Attributes:
      name: What they are, for progress: ``"real"``, ``"other real"``, ``"drawn"``.
      count: How many, over all processes.
      fingerprint: sha256 of all that the pixels follow from.
      shares: How processes share them.
      open_batches: Starts reading: this process's rows of each batch, in turn. The iterator has a
        ``close``.
    """

    name: str
    count: int
    fingerprint: str
    shares: ProcessShards
    open_batches: Callable[[], Iterator[Pixels]]

    def __len__(self) -> int:
        return self.count

    def batches(self) -> Iterator[Pixels]:
        """This process's rows of each batch: fewer in the last, and maybe none."""
        opened = self.open_batches()
        try:
            yield from opened
        finally:
            opened.close()

    def map(self, function: Callable[[Pixels], Sequence[T]]) -> list[T]:
        """What a function of batches gives for each picture of this process's share; progress."""
        total = sum(map(len, self.shares.ranges(self.count)))
        progress = Progress(
            total,
            name=f"reading {self.name} pictures",
            unit="images",
            silent=not processes.is_first(),
        )
        values = []
        for batch in self.batches():
            values += function(batch)
            progress.tell(len(values))
        return values

    def gather(self, rows: Shaped[np.ndarray, "own *shape"]) -> Shaped[np.ndarray, "n *shape"]:
        """See `ProcessShards.gather`; the rows belong to this process's pictures."""
        return self.shares.gather(rows, self.count)


def make_shards(batch_size: int) -> ProcessShards:
    """ProcessShards of this run's processes; the batch is rounded up to fill all devices."""
    devices = jax.device_count()
    whole = -(-batch_size // devices) * devices
    return ProcessShards(whole, jax.process_index(), jax.process_count())


def real_pictures(
    name: str,
    reader: ExampleReader,
    indices: Sequence[int],
    fingerprint: str,
    shares: ProcessShards,
) -> Pictures:
    """Pictures of a split, decoded and resized as they are asked for, read ahead in threads.

    Args:
      name: See `Pictures`.
      reader: Of the split.
      indices: Which of its records.
      fingerprint: Of those records' bytes and of the resizing.
      shares: See `Pictures`.
    """

    def open_batches() -> Iterator[Pixels]:
        ranges = shares.ranges(len(indices))
        counts = iter(map(len, ranges))

        def selections() -> Iterator[Selection]:
            for part in ranges:
                chosen = [indices[i] for i in part] or [indices[-1]]  # Some record must be read.
                yield Selection(chosen, chosen)

        def finish(examples: Examples) -> Pixels:
            return examples.image[: next(counts)]

        return ReadAhead(reader, selections(), finish)

    return Pictures(name, len(indices), fingerprint, shares, open_batches)


def fingerprint(*parts: Any) -> str:
    """sha256 of the representations of some plain values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
