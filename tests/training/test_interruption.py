"""interruption.py: real signals to real processes, also while Python cannot run."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from xmc_jax.parallel import stopping
from xmc_jax.training.interruption import Interruption

# A call in C that takes minutes keeps the main thread from handling signals, as compilations do.
CHILD = """
import hashlib, sys, time
from xmc_jax.training.interruption import Interruption
with Interruption() as interruption:
    step = 0
    if sys.argv[1] == "loop":
        for step in range(1, 1000):
            print("step", step, flush=True)
            time.sleep(0.1)
            if interruption.is_due(step):
                break
    if sys.argv[1] == "saving":
        interruption.is_due(1)
    if sys.argv[1] != "loop":
        print("busy", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
print("saved", step, flush=True)
"""


def start(kind):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.readline()
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_the_first_signal_ends_the_loop_after_a_step(number, ctrl_c):
    child = start("loop")
    time.sleep(0.3)
    child.send_signal(number)
    out, errors = child.communicate(timeout=20)
    assert child.returncode == 0
    *steps, saved = out.splitlines()
    assert saved == steps[-1].replace("step", "saved") and 1 < len(steps) < 100
    assert errors == f"{number.name}: saving; a second signal ends at once\n"


def test_before_the_first_step_a_signal_ends_at_once_although_python_cannot_run():
    child = start("compiling")
    child.send_signal(signal.SIGTERM)
    out, errors = child.communicate(timeout=20)
    assert child.returncode == 0 and "saved" not in out
    assert "SIGTERM before the first step: there is nothing to save" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_the_second_signal_ends_at_once(number, ctrl_c):
    child = start("saving")
    child.send_signal(number)
    assert "saving" in child.stderr.readline()
    child.send_signal(number)  # The same request, passed on by a script.
    time.sleep(1.2)
    assert child.poll() is None
    child.send_signal(number)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 128 + number
    assert errors == f"{number.name} again: ended without saving; the same command resumes\n"


def test_handlers_are_as_before_when_it_is_left(ctrl_c):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    num_threads = threading.active_count()
    with Interruption() as interruption:
        assert not interruption.is_due(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert any(interruption.is_due(step) or time.sleep(0.01) for step in range(2, 3000))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert threading.active_count() == num_threads


def test_what_a_shell_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            assert not interruption.is_due(1) and not interruption.is_due(2)
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_other_processes_the_next_step_is_the_last():
    together = stopping.StopTogether()
    assert not together.is_due(5)
    together.ask()
    assert together.is_due(6)
