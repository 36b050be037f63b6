"""Sets of images that need not fit in memory, split over the processes of a run."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from xmc_jax.console import Progress
from xmc_jax.parallel import processes

T = TypeVar("T")
Pixels = UInt8[np.ndarray, "b h w 3"]


@dataclasses.dataclass(frozen=True)
class ProcessShards:
    """How the processes of a run split a list of items: each has its rows of every batch.

    Attributes:
      batch_size: Items in a batch over all processes; a multiple of their number.
      process_index: The process whose shards these are.
      process_count: Number of processes.
    """

    batch_size: int
    process_index: int = 0
    process_count: int = 1

    def ranges(self, count: int) -> list[range]:
        """For each batch, the items of the process; a range may be empty."""
        rows = self.batch_size // self.process_count
        first = self.process_index * rows
        starts = range(first, count + first, self.batch_size)
        return [range(min(start, count), min(start + rows, count)) for start in starts]

    def own(self, items: Sequence[T]) -> list[T]:
        """The items of the process, in the order of the list."""
        return [items[i] for part in self.ranges(len(items)) for i in part]

    def gather(
        self, rows: Shaped[np.ndarray, "own *shape"], count: int
    ) -> Shaped[np.ndarray, "count *shape"]:
        """The rows of all processes, in the order of the items; all processes must call it.

        Args:
          rows: One for each item of this process.
          count: Number of items of all processes.
        """
        everyone = (dataclasses.replace(self, process_index=i) for i in range(self.process_count))
        shards = [shard.own(range(count)) for shard in everyone]
        longest = max(map(len, shards))
        padded = np.zeros((longest, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        whole = np.empty((count, *rows.shape[1:]), rows.dtype)
        for shard, part in zip(shards, processes.gather(padded), strict=True):
            whole[shard] = part[: len(shard)]
        return whole


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A set of images that is read batch by batch.

    Attributes:
      name: For progress messages: ``"real"``, ``"other real"``, ``"generated"``, ….
      count: Number of images over all processes.
      fingerprint: sha256 of everything that determines the pixels.
      shards: How the images are split over processes.
      open_batches: Starts to read: returns an iterator over this process's rows of each batch,
        which has a method ``close``.
    """

    name: str
    count: int
    fingerprint: str
    shards: ProcessShards
    open_batches: Callable[[], Iterator[Pixels]]

    def __len__(self) -> int:
        return self.count

    def batches(self) -> Iterator[Pixels]:
        """This process's rows of each batch; the last batch has fewer, maybe none."""
        with contextlib.closing(self.open_batches()) as opened:
            yield from opened

    def map(self, function: Callable[[Pixels], Sequence[T]]) -> list[T]:
        """Applies a function of batches; returns one value for each image of this process."""
        total = sum(map(len, self.shards.ranges(self.count)))
        progress = make_progress(total, name=f"reading {self.name} images", unit="images")
        values = []
        for batch in self.batches():
            values += function(batch)
            progress.tell(len(values))
        return values

    def gather(self, rows: Shaped[np.ndarray, "own *shape"]) -> Shaped[np.ndarray, "n *shape"]:
        """`ProcessShards.gather` of one row for each image of this process."""
        return self.shards.gather(rows, self.count)


def make_shards(batch_size: int) -> ProcessShards:
    """The shards of this run's processes; the batch is rounded up to a multiple of the devices."""
    devices = jax.device_count()
    whole = -(-batch_size // devices) * devices
    return ProcessShards(whole, jax.process_index(), jax.process_count())


def make_progress(total: int, *, name: str, unit: str) -> Progress:
    """A `Progress` that only the first process prints."""
    return Progress(total, name=name, unit=unit, silent=not processes.is_first())


def fingerprint(*parts: Any) -> str:
    """sha256 of the representations of some plain values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
