"""progress.py: lines that tell how far work is."""

import re
import time

import pytest

from xmc_jax import console
from xmc_jax.console import Progress, format_duration, with_progress


def test_durations():
    assert [format_duration(s) for s in (0.0, 59.4, 61.0, 3599.6, 36_061.0)] == [
        "0:00",
        "0:59",
        "1:01",
        "1:00:00",
        "10:01:01",
    ]


def test_items_pass_and_the_last_is_told(capsys):
    assert list(with_progress("abc", 3, name="train", unit="letters")) == ["a", "b", "c"]
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"train 3/3  \d+ letters/s  ETA 0:00", line)


def test_rates_and_what_is_left(capsys, monkeypatch):
    clock = iter(range(0, 1000, 2))  # Two seconds an item.
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    list(with_progress(range(100), 100, name="val", unit="rows"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "val 3/100  0.5 rows/s  ETA 3:14"  # No line for less than five seconds.
    assert len(lines) == 34 and lines[-1].endswith("ETA 0:00")


def test_what_was_there_before_makes_no_rate(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    for total in (60, None):
        console = Progress(total, name="images", unit="images")
        console.tell(20, num_before=20)
        console.tell(40, num_before=20, note="missing 3")
    console = Progress(7, name="rows", unit="rows")
    for _ in range(3):
        console.tell(7, num_before=7)
    assert capsys.readouterr().err.splitlines() == [
        "images 20/60  0.0 images/s  ETA unknown",
        "images 40/60  1.0 images/s  ETA 0:20  missing 3",
        "images 20  0.0 images/s",
        "images 40  1.0 images/s  missing 3",
        "rows 7/7  0.0 rows/s  ETA 0:00",
    ]


def test_waiting_tells_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "_WAITING_EVERY_SECONDS", 0.02)
    with console.waiting("compiling"):
        time.sleep(0.2)
    first, *between, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("compiling ...", "compiling: 0:00")
    assert between and set(between) == {"compiling: 0:00 so far"}


def test_waiting_passes_errors_on(capsys):
    with pytest.raises(KeyError), console.waiting("compiling"):
        raise KeyError
    assert capsys.readouterr().err == "compiling ...\n"
