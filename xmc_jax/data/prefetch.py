"""Reads batches ahead, in threads of this process or in worker processes.

Not with grain's workers: they read as fast (benchmarks/reading.py), but outlive a parent that is
killed, need parsed absl flags, and leak shared memory when a stream is not closed.
"""

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from grain.multiprocessing import SharedMemoryArray, SharedMemoryArrayMetadata

from xmc_jax.data import read_worker, workers
from xmc_jax.data.read_worker import Read, SharedExamples
from xmc_jax.data.records import Examples, Selection
from xmc_jax.errors import UserError

NUM_THREADS = 2  # Without worker processes.


class ReadAhead(Iterator):
    """Reads selections and yields their examples in the same order.

    Reading begins at once and ends with `close`. Two batches of each worker are ready or being
    read.

    Args:
      read: Reads a selection. Its second argument, a function, returns true when it should stop.
      selections: What to read.
      finish: Makes an item of the examples of a selection, when the item is asked for.
      num_workers: Worker processes, to which `read` is pickled; 0 for threads of this process.
    """

    def __init__(
        self,
        read: Read,
        selections: Iterator[Selection],
        finish: Callable[[Examples], Any],
        num_workers: int = 0,
    ):
        if num_workers:
            self._stop = workers.CONTEXT.Event()
            self._pool = workers.start_pool(num_workers, read_worker.set_up, read, self._stop)
            self._read = read_worker.read_shared
        else:
            self._stop = threading.Event()
            self._pool = ThreadPoolExecutor(NUM_THREADS, "reader")
            self._read = functools.partial(read, stop=self._stop.is_set)
        self._selections, self._finish = selections, finish
        self._ahead = deque()
        for _ in range(2 * (num_workers or NUM_THREADS)):
            self._submit()

    def __next__(self) -> Any:
        if not self._ahead:
            raise StopIteration
        try:
            examples = self._ahead[0].result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process of the reader was killed; it may have run out of memory, or of "
                "space in /dev/shm: give it more, or lower --reader_workers (0 needs neither)"
            ) from error
        self._ahead.popleft()
        if isinstance(examples, SharedExamples):
            examples = _open(examples)
        self._submit()
        return self._finish(examples)

    def close(self) -> None:
        """Ends its threads and processes; each finishes the image that it is reading."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        for batch in self._ahead:
            if not batch.cancelled() and not batch.exception():
                if isinstance(examples := batch.result(), SharedExamples):
                    _open(examples)  # Frees it.
        self._ahead.clear()

    def _submit(self) -> None:
        for selection in itertools.islice(self._selections, 1):
            try:
                batch = self._pool.submit(self._read, selection)
            except BrokenProcessPool as error:  # Its turn to be reported comes with this batch.
                batch = Future()
                batch.set_exception(error)
            self._ahead.append(batch)


def _open(shared: SharedExamples) -> Examples:
    """The examples. Nobody else can open them afterwards; the memory is freed with their array."""
    metadata = SharedMemoryArrayMetadata(shared.name, shared.shape, np.uint8)
    pixels = SharedMemoryArray.from_metadata(metadata)
    pixels.shm.unlink()
    return shared.examples._replace(image=pixels)
