"""How long work tells where it is: counts, a rate and the time that is left."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_EVERY_SECONDS = 5.0


def format_duration(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below one hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def with_progress(items: Iterable[T], total: int, *, name: str, unit: str) -> Iterator[T]:
    """Passes items on and tells of them: ``train 1200/82783  850 pictures/s  ETA 1:36``.

    Args:
      items: What is worked through.
      total: How many there are; a line comes every few seconds, and for the last of them.
      name: What they are, at the start of a line on stderr.
      unit: What one is called, in the plural.
    """
    started = told = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if count == total or now - told >= _EVERY_SECONDS:
            told = now
            rate = count / max(now - started, 1e-9)
            left = format_duration((total - count) / rate)
            line = f"{name} {count}/{total}  {rate:.0f} {unit}/s  ETA {left}"
            print(line, file=sys.stderr, flush=True)
