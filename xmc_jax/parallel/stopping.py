"""How the processes of a run end together: on request, after a failure, or when one has died."""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

import jax

from xmc_jax.parallel.processes import client, is_first, wait_for_all

_STOPPED = "xmc_jax/stopped"  # The key under which the first process that fails says why.
_SAVE = "xmc_jax/save"  # The key that asks all processes to stop, and the place of their steps.
_LEFT = "left"
_ALIVE = "xmc_jax/alive"  # Where each process counts, to show that it lives.
_POLL_SECONDS = 1.0
# After this long without a sign of life, a process counts as dead: where a collective has failed
# for it, and where nothing has. An import or a compilation may keep a living one silent for some
# seconds. JAX itself would wait for 100 s, and then abort with a stack trace.
_SUSPICIOUS_SECONDS, _DEAD_SECONDS = 10.0, 60.0
# Process 0, which the others ask for that reason, leaves this much later than they.
_LAST_WORDS_SECONDS = 4.0
_ANSWER_SECONDS = 30


def give_way() -> str:
    """Waits a moment, in which a failure of another process ends this one with its reason.

    For failures that may be the other's: a collective fails in all when one is gone.

    Returns:
      Which process has died, and what to do; empty if none has.
    """
    deadline = time.monotonic() + _SUSPICIOUS_SECONDS + 3 * _POLL_SECONDS
    while time.monotonic() < deadline and not (dead := _find_dead(_SUSPICIOUS_SECONDS)):
        time.sleep(_POLL_SECONDS)
    return dead


def stop_others(reason: str, exit_code: int) -> None:
    """Ends all processes of the run; returns only if there is no other.

    The others would wait in their next collective for one that is gone.
    """
    connection = client()
    if connection is None:
        return
    message = f"{exit_code} process {jax.process_index()} stopped: {reason}"
    with contextlib.suppress(Exception):  # Another process was first.
        connection.key_value_set(_STOPPED, message)
    _exit(exit_code)


class StopTogether:
    """Agreement of all processes on the step after which they stop.

    A step is a collective: nobody may be at another one than the others. Whoever is asked to stop
    asks all; each says how far it has come, waits for the others to say so, and all go on to the
    step after the farthest. JAX's own protocol is alike, but hears of SIGTERM only.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._step = 0
        self._last_step: int | None = None
        self._client = client()
        self.close = _when_set(_SAVE, self._agree) if self._client else lambda: None

    def ask(self) -> None:
        """Asks all processes to stop; may be called by any thread, more than once."""
        if self._client:
            self._client.key_value_set(_SAVE, "", allow_overwrite=True)
        else:
            with self._lock:
                self._last_step = self._step + 1

    def is_due(self, step: int) -> bool:
        """Whether this step, which was taken, is the last one; to be called after every step."""
        with self._lock:  # Whoever has told a step waits here until all have.
            self._step = step
            return self._last_step is not None and step >= self._last_step

    def _agree(self, _: str) -> None:
        # Without an answer there is no agreement, and training goes on: another process has ended.
        with self._lock, contextlib.suppress(Exception):
            self._client.key_value_set(f"{_SAVE}/{jax.process_index()}", str(self._step))
            wait_for_all("agree on the last step", seconds=_ANSWER_SECONDS)
            steps = self._client.key_value_dir_get(f"{_SAVE}/")
            self._last_step = max(int(step) for _, step in steps) + 1


def _exit(exit_code: int) -> None:
    if is_first():
        time.sleep(_LAST_WORDS_SECONDS)
    # Not sys.exit: leaving the run in order means waiting for the others to leave.
    os._exit(exit_code)


def watch_others() -> None:
    """Ends this process with the others of its run: when one says so, and when one has died."""
    own = f" process {jax.process_index()} stopped: "

    def leave(message: str) -> None:
        if own in message:
            return
        exit_code, reason = message.split(" ", 1)
        print(f"{'error: ' * (exit_code != '0')}{reason}", file=sys.stderr, flush=True)
        _exit(int(exit_code))

    _when_set(_STOPPED, leave)
    _LifeSigns()


class _LifeSigns:
    """A thread that shows that this process lives, and ends it when another does not."""

    # What each process said last, and when that was heard.
    heard: dict[int, tuple[str, float]] = {}

    def __init__(self):
        self._client, self._over = client(), threading.Event()
        self._key = f"{_ALIVE}/{jax.process_index()}"
        self._thread = threading.Thread(target=self._watch, daemon=True, name="signs of life")
        self._thread.start()
        atexit.register(self._leave)

    def _watch(self) -> None:
        count = 0
        while not self._over.wait(_POLL_SECONDS):
            count += 1
            # Fails when process 0 is gone, and with it what all others need: JAX ends them.
            with contextlib.suppress(Exception):
                self._client.key_value_set(self._key, str(count), allow_overwrite=True)
                for key, sign in self._client.key_value_dir_get(f"{_ALIVE}/"):
                    index = int(key.rpartition("/")[2])
                    if self.heard.get(index, ("", 0))[0] != sign:
                        self.heard[index] = sign, time.monotonic()
                if dead := _find_dead(_DEAD_SECONDS):
                    print(f"error: {dead}", file=sys.stderr, flush=True)
                    _exit(1)

    def _leave(self) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            self._client.key_value_set(self._key, _LEFT, allow_overwrite=True)


def _find_dead(seconds: float) -> str:
    """A line on the processes that were silent for so long; empty if there are none."""
    now = time.monotonic()
    signs = dict(_LifeSigns.heard)
    dead = [i for i, (sign, at) in sorted(signs.items()) if sign != _LEFT and now - at > seconds]
    if not dead:
        return ""
    names = f"process {dead[0]}" if len(dead) == 1 else f"processes {', '.join(map(str, dead))}"
    return (
        f"{names} of {jax.process_count()} died, or cannot be reached any more; start all "
        "processes again: the run goes on from its last checkpoint"
    )


def _when_set(key: str, react: Callable[[str], None]) -> Callable[[], None]:
    """Calls back, in a thread, once any process sets a key; returns what ends the thread."""
    connection, over = client(), threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            try:
                value = connection.key_value_try_get(key)
            except Exception:  # Nothing is there, or the run is about to end.
                continue
            return react(value)

    thread = threading.Thread(target=watch, daemon=True, name=f"watch {key}")
    thread.start()

    def stop_watching() -> None:
        over.set()
        thread.join()

    atexit.register(stop_watching)  # Before JAX leaves the run, as it registered first.
    return stop_watching
