"""Several processes as one run: which one this is, and how they wait for and hear each other.

All of it also holds for a single process, which is the first and the last of its run.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed  # For `client`.
from jax.experimental import multihost_utils

_LONGEST_WAIT_SECONDS = 24 * 3600


def is_first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text, flush=True)


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """Lets process 0 through a block before the others, which find done what it did."""
    if not is_first():
        wait_for_all(name)
    yield
    if is_first():
        wait_for_all(name)


def gather(array: np.ndarray) -> np.ndarray:
    """Every process's array, stacked in their order, to the last bit; shapes must be equal."""
    if jax.process_count() == 1:
        return array[None]
    # As bytes: JAX would make float32 of float64, and say nothing.
    sent = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    received = np.ascontiguousarray(multihost_utils.process_allgather(sent))
    return received.view(array.dtype).reshape(-1, *array.shape)


def wait_for_all(name: str, seconds: int = _LONGEST_WAIT_SECONDS) -> None:
    """Returns when every process has called it; those of one run may take hours."""
    if connection := client():
        connection.wait_at_barrier(f"xmc_jax/{name}", timeout_in_ms=seconds * 1000)


def client():
    """The connection to process 0, or None if this process is alone.

    JAX has no public name for it; its collectives wait on devices, for half a minute at most, and
    are of no use to a process that failed.
    """
    return distributed.global_state.client if jax.process_count() > 1 else None
