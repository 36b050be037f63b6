"""Several processes as one run: which one this is, waiting for the others, exchanging arrays.

Everything also works in a single process.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed  # See `client`.
from jax.experimental import multihost_utils

_LONGEST_WAIT_SECONDS = 24 * 3600


def is_first() -> bool:
    """Whether this is process 0, which writes files and prints for all."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line in process 0 only."""
    if is_first():
        print(text, flush=True)


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """Runs a block in process 0 first, then in the others, which find its results on disk.

    Args:
      name: Names the barrier; unique among those that are waited for at the same time.
    """
    if not is_first():
        wait_for_all(name)
    yield
    if is_first():
        wait_for_all(name)


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, stacked in their order, bit for bit; shapes must be equal."""
    if jax.process_count() == 1:
        return array[None]
    # Sent as bytes: JAX would silently turn float64 into float32.
    sent = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    received = np.ascontiguousarray(multihost_utils.process_allgather(sent))
    return received.view(array.dtype).reshape(-1, *array.shape)


def wait_for_all(name: str, seconds: int = _LONGEST_WAIT_SECONDS) -> None:
    """Returns when every process has called it.

    Args:
      name: Names the barrier.
      seconds: How long to wait; processes of a run may be hours apart.
    """
    if connection := client():
        connection.wait_at_barrier(f"xmc_jax/{name}", timeout_in_ms=seconds * 1000)


def client():
    """JAX's connection to process 0 (a key-value store and barriers); None in a single process.

    JAX has no public name for it. Its public collectives run on devices and time out after half a
    minute; a process that failed cannot use them.
    """
    return distributed.global_state.client if jax.process_count() > 1 else None
