"""The side of `prefetch.ReadAhead` that runs in worker processes.

Worker processes import this module, so it imports neither TensorFlow nor JAX nor grain: each would
cost a worker a second and 100 MB.
"""

import functools
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Event
from typing import NamedTuple

import numpy as np

from xmc_jax.data.records import Examples, Selection

Read = Callable[[Selection, Callable[[], bool]], Examples]


class SharedExamples(NamedTuple):
    """Examples with pixels in shared memory: a pipe would cost the parent half a core at 1,000/s.

    Attributes:
      examples: The examples, without pixels.
      name: Name of the shared memory.
      shape: Shape of the pixels.
    """

    examples: Examples
    name: str
    shape: tuple[int, ...]


def set_up(read: Read, stop: Event) -> None:
    """Called once in each worker, before `read_shared`."""
    global _read
    _read = functools.partial(read, stop=stop.is_set)


def read_shared(selection: Selection) -> SharedExamples:
    """Reads a selection; the parent must free the shared memory."""
    examples = _read(selection)
    pixels = examples.image
    memory = SharedMemory(create=True, size=pixels.nbytes)
    np.ndarray(pixels.shape, np.uint8, memory.buf)[:] = pixels
    memory.close()
    return SharedExamples(examples._replace(image=pixels[:0]), memory.name, pixels.shape)
