"""How long work tells where it is: counts, a rate and the time that is left."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def format_duration(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below one hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def with_progress(
    items: Iterable[T],
    total: int,
    *,
    name: str,
    unit: str,
    every_seconds: float = 5.0,
    write: Callable[[str], object] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Iterator[T]:
    """Passes items on and tells of them: ``train 1200/82783  850 images/s  ETA 1:36``.

    Args:
      items: What is worked through.
      total: How many there are.
      name: What they are, at the start of a line.
      unit: What one is called, in the plural.
      every_seconds: Between two lines; the last item always has one.
      write: Takes a line; stderr by default.
    """
    started = told = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if count == total or now - told >= every_seconds:
            told = now
            rate = count / max(now - started, 1e-9)
            remaining = format_duration((total - count) / rate)
            write(f"{name} {count}/{total}  {rate:.0f} {unit}/s  ETA {remaining}")
