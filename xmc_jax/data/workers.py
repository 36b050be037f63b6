"""Worker processes that end with their parent.

Worker processes import this module, so it imports nothing heavy.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

# Processes are spawned: a fork of a process that has threads, such as JAX's, can hang.
CONTEXT = multiprocessing.get_context("spawn")


def start_pool(
    num_workers: int, initialize: Callable[..., None] | None = None, *arguments: Any
) -> ProcessPoolExecutor:
    """A pool whose processes leave Ctrl-C to their parent and end with it, even by kill -9.

    `initialize` is called once in each process; events and locks in its arguments must be of
    `CONTEXT`.
    """
    return ProcessPoolExecutor(num_workers, CONTEXT, _start_worker, (initialize, arguments))


def _start_worker(initialize: Callable[..., None] | None, arguments: tuple) -> None:
    # Ctrl-C reaches every process of a terminal; the parent closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initialize:
        initialize(*arguments)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
