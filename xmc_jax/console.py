"""Progress of long work on the console: counts, a rate and the time that is left."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_EVERY_SECONDS = 5.0
_WAITING_EVERY_SECONDS = 30.0


def notice(text: str) -> None:
    """Prints a line on stderr about something that the user should know but need not act on."""
    print(f"notice: {text}", file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below one hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Reports work on stderr every few seconds: ``train 1200/82783  850 images/s  ETA 1:36``.

    Args:
      total: Number of items; None if unknown.
      name: Starts each line.
      unit: Plural of what is counted.
      silent: Prints nothing, because another process does.
    """

    def __init__(self, total: int | None, *, name: str, unit: str, silent: bool = False):
        self._total, self._name, self._unit = total, name, unit
        self._started = self._told = time.monotonic()
        self._is_over = silent

    def tell(self, done: int, *, num_before: int = 0, note: str = "") -> None:
        """Prints a line if it is time for one, or if everything is done.

        Args:
          done: Number of items that are done.
          num_before: Number of these that an earlier run did; they do not count into the rate.
          note: More words for the line.
        """
        now = time.monotonic()
        if self._is_over or done != self._total and now - self._told < _EVERY_SECONDS:
            return
        self._told, self._is_over = now, done == self._total
        rate = (done - num_before) / max(now - self._started, 1e-9)
        line = f"{self._name} {done}"
        if self._total is not None:
            line += f"/{self._total}"
        line += f"  {rate:.{0 if rate >= 100 else 1}f} {self._unit}/s"
        if self._total is not None:
            left = max(self._total - done, 0)
            eta = format_duration(left / (rate or 1)) if rate or not left else "unknown"
            line += f"  ETA {eta}"
        print(f"{line}  {note}".rstrip(), file=sys.stderr, flush=True)


def with_progress(items: Iterable[T], total: int, *, name: str, unit: str) -> Iterator[T]:
    """Yields items and reports them as `Progress` does.

    Args:
      items: The items.
      total: See `Progress`.
      name: See `Progress`.
      unit: See `Progress`.
    """
    progress = Progress(total, name=name, unit=unit)
    for count, item in enumerate(items, start=1):
        yield item
        progress.tell(count)


@contextlib.contextmanager
def waiting(task: str) -> Iterator[None]:
    """Reports a task without parts on stderr: its beginning, how long it takes, its end.

    Args:
      task: What is done, such as "compiling for 4 devices".
    """
    started, is_over = time.monotonic(), threading.Event()

    def tell(state: str) -> None:
        duration = format_duration(time.monotonic() - started)
        print(f"{task}: {duration}{state}", file=sys.stderr, flush=True)

    def tell_now_and_then() -> None:
        while not is_over.wait(_WAITING_EVERY_SECONDS):
            tell(" so far")

    print(f"{task} ...", file=sys.stderr, flush=True)
    teller = threading.Thread(target=tell_now_and_then, daemon=True)
    teller.start()
    try:
        yield
    finally:
        is_over.set()
        teller.join()
    tell("")
