"""Reading in the background, in threads of this process or in worker processes of its own.

Worker processes import this module: neither TensorFlow nor JAX here, a second and 100 MB each.
"""

import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from xmc_jax.data.records import Examples, Selection
from xmc_jax.errors import UserError

NUM_THREADS = 2  # Where there are no workers.

Read = Callable[[Selection, Callable[[], bool]], Examples]


class ReadAhead(Iterator):
    """Selections in, their examples out, in the same order; read ahead from its making to `close`.

    Two batches of each worker are ready or in the making. grain's worker processes are not used:
    they keep four, and end one after the other, half a second each.

    Args:
      read: Reads a selection, unless its second argument, a function, tells it to stop.
      selections: What to read; asked for two batches a worker ahead.
      finish: Makes what is yielded of the examples of a selection, when it is asked for.
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
            context = multiprocessing.get_context("spawn")  # Forks of a process with threads hang.
            self._stop = context.Event()
            self._pool = ProcessPoolExecutor(
                num_workers, context, _start_worker, (read, self._stop)
            )
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
        """Ends its threads and processes, as soon as each is done with its image."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        for batch in self._ahead:
            if not batch.cancelled() and not batch.exception():
                if isinstance(image := batch.result().image, _Shared):
                    image.open()
        self._ahead.clear()

    def _submit(self) -> None:
        for selection in itertools.islice(self._selections, 1):
            self._ahead.append(self._pool.submit(self._read, selection))


class _Shared:
    """Bytes of pixels in shared memory: a pipe would cost the parent half a core at 1,000 images/s.

    Args:
      pixels: What to copy there.
    """

    def __init__(self, pixels: np.ndarray):
        self._shape = pixels.shape
        memory = SharedMemory(create=True, size=pixels.nbytes)
        np.ndarray(self._shape, np.uint8, memory.buf)[:] = pixels
        self._name = memory.name
        memory.close()

    def open(self) -> np.ndarray:
        """The pixels, once: nobody else finds their memory, and it is freed with the array."""
        from grain.multiprocessing import SharedMemoryArray, SharedMemoryArrayMetadata

        metadata = SharedMemoryArrayMetadata(self._name, self._shape, np.uint8)
        pixels = SharedMemoryArray.from_metadata(metadata)
        pixels.shm.unlink()
        return pixels


def _start_worker(read: Read, stop: Any) -> None:
    """Run at the start of a worker: it ends when its parent does, however that ends."""
    global _worker_read
    _worker_read = functools.partial(read, stop=stop.is_set)
    # Ctrl-C reaches every process of a terminal; the parent closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read_in_worker(selection: Selection) -> Examples:
    examples = _worker_read(selection)
    return examples._replace(image=_Shared(examples.image))
