"""Reads batches ahead, in threads of this process or in worker processes.

Worker processes import this module, so it imports neither TensorFlow nor JAX: each would cost a
worker a second and 100 MB.
"""

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from xmc_jax.data import workers
from xmc_jax.data.records import Examples, Selection
from xmc_jax.errors import UserError

NUM_THREADS = 2  # Without worker processes.

Read = Callable[[Selection, Callable[[], bool]], Examples]


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
            self._pool = workers.start_pool(num_workers, _set_worker_read, read, self._stop)
            self._read = _read_in_worker
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
        if isinstance(examples.image, _Shared):
            examples = examples._replace(image=examples.image.open())
        self._submit()
        return self._finish(examples)

    def close(self) -> None:
        """Ends its threads and processes; each finishes the image that it is reading."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        for batch in self._ahead:
            if not batch.cancelled() and not batch.exception():
                if isinstance(image := batch.result().image, _Shared):
                    image.open()  # Frees it.
        self._ahead.clear()

    def _submit(self) -> None:
        for selection in itertools.islice(self._selections, 1):
            self._ahead.append(self._pool.submit(self._read, selection))


class _Shared:
    """Pixels in shared memory: through a pipe, 1,000 images/s would cost the parent half a core.

    Args:
      pixels: The array to copy there.
    """

    def __init__(self, pixels: np.ndarray):
        self._shape = pixels.shape
        memory = SharedMemory(create=True, size=pixels.nbytes)
        np.ndarray(self._shape, np.uint8, memory.buf)[:] = pixels
        self._name = memory.name
        memory.close()

    def open(self) -> np.ndarray:
        """The pixels. Can be called once; the memory is freed with the array."""
        # Here, since workers need not wait for grain.
        from grain.multiprocessing import SharedMemoryArray, SharedMemoryArrayMetadata

        metadata = SharedMemoryArrayMetadata(self._name, self._shape, np.uint8)
        pixels = SharedMemoryArray.from_metadata(metadata)
        pixels.shm.unlink()
        return pixels


def _set_worker_read(read: Read, stop: Any) -> None:
    global _worker_read
    _worker_read = functools.partial(read, stop=stop.is_set)


def _read_in_worker(selection: Selection) -> Examples:
    examples = _worker_read(selection)
    return examples._replace(image=_Shared(examples.image))
