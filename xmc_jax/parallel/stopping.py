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

_STOPPED = "xmc_jax/stopped"  # Key under which the first process that fails says why.
_SAVE = "xmc_jax/save"  # Key that asks all processes to stop; their steps are below it.
_LEFT = "left"
_ALIVE = "xmc_jax/alive"  # Below it each process sets ever new values, as signs of life.
_POLL_SECONDS = 1.0
# A process counts as dead after this long without a sign of life: the shorter time after a
# collective failed, the longer one otherwise. Imports and compilations may keep a living process
# silent for some seconds. JAX's own heartbeat (100 s) aborts with a stack trace instead, and its
# public API has no place for a message.
_SUSPICIOUS_SECONDS, _DEAD_SECONDS = 10.0, 60.0
# Process 0 holds the reason that the others ask for, so it leaves this much later.
_LAST_WORDS_SECONDS = 4.0
_ANSWER_SECONDS = 30

_heard: dict[int, tuple[str, float]] = {}  # The last sign of each process, and when it arrived.


def give_way() -> str:
    """Waits a moment after a failure that another process may have caused.

    A collective fails in all processes when one of them is gone. If another one says why it
    stopped, this process ends here with that reason.

    Returns:
      Which process died, and what to do; empty if none did.
    """
    deadline = time.monotonic() + _SUSPICIOUS_SECONDS + 3 * _POLL_SECONDS
    while time.monotonic() < deadline and not (dead := _find_dead(_SUSPICIOUS_SECONDS)):
        time.sleep(_POLL_SECONDS)
    return dead


def stop_others(reason: str, exit_code: int) -> None:
    """Ends all processes of the run; returns only in a single process.

    Otherwise the others would wait for this process in their next collective.
    """
    connection = client()
    if connection is None:
        return
    message = f"{exit_code} process {jax.process_index()} stopped: {reason}"
    with contextlib.suppress(Exception):  # Another process has set it already.
        connection.key_value_set(_STOPPED, message)
    _exit(exit_code)


class StopTogether:
    """Lets all processes agree on the step after which they stop.

    A step contains collectives, so all processes must take the same ones. The process that is asked
    to stop asks all others; each tells its step, waits until all have told theirs, and all continue
    to the step after the largest. JAX has a similar protocol that only knows SIGTERM.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._step = 0
        self._last_step: int | None = None
        self._client = client()
        self.close = _when_set(_SAVE, self._agree) if self._client else lambda: None

    def ask(self) -> None:
        """Asks all processes to stop. Any thread may call it, more than once."""
        if self._client:
            self._client.key_value_set(_SAVE, "", allow_overwrite=True)
        else:
            with self._lock:
                self._last_step = self._step + 1

    def is_due(self, step: int) -> bool:
        """Whether this step, which is done, is the last; has to be called after every step."""
        with self._lock:  # Waits here while `_agree` does.
            self._step = step
            return self._last_step is not None and step >= self._last_step

    def _agree(self, _: str) -> None:
        # Without agreement training continues: another process has ended.
        with self._lock, contextlib.suppress(Exception):
            self._client.key_value_set(f"{_SAVE}/{jax.process_index()}", str(self._step))
            wait_for_all("agree on the last step", seconds=_ANSWER_SECONDS)
            steps = self._client.key_value_dir_get(f"{_SAVE}/")
            self._last_step = max(int(step) for _, step in steps) + 1


def _exit(exit_code: int) -> None:
    if is_first():
        time.sleep(_LAST_WORDS_SECONDS)
    # Not sys.exit, which would wait for the other processes to leave.
    os._exit(exit_code)


def watch_others() -> None:
    """Ends this process when another one of its run says so or has died."""
    own = f" process {jax.process_index()} stopped: "

    def leave(message: str) -> None:
        if own in message:
            return
        exit_code, reason = message.split(" ", 1)
        print(f"{'error: ' * (exit_code != '0')}{reason}", file=sys.stderr, flush=True)
        _exit(int(exit_code))

    _when_set(_STOPPED, leave)
    _exchange_signs_of_life()


def _exchange_signs_of_life() -> None:
    """Tells the others that this process lives, and ends it when another gives no sign."""
    connection, own = client(), f"{_ALIVE}/{jax.process_index()}"

    def exchange() -> bool:
        # Fails when process 0 is gone; then JAX ends all others.
        with contextlib.suppress(Exception):
            connection.key_value_set(own, str(time.monotonic()), allow_overwrite=True)
            for key, sign in connection.key_value_dir_get(f"{_ALIVE}/"):
                index = int(key.rpartition("/")[2])
                if _heard.get(index, ("", 0))[0] != sign:
                    _heard[index] = sign, time.monotonic()
            if dead := _find_dead(_DEAD_SECONDS):
                print(f"error: {dead}", file=sys.stderr, flush=True)
                _exit(1)
        return False

    def leave() -> None:
        with contextlib.suppress(Exception):
            connection.key_value_set(own, _LEFT, allow_overwrite=True)

    atexit.register(leave)  # Runs after the thread has ended, which registers later.
    _poll("signs of life", exchange)


def _find_dead(seconds: float) -> str:
    """A line about the processes that were silent for so long; empty if there are none."""
    now = time.monotonic()
    heard = sorted(_heard.copy().items())
    dead = [i for i, (sign, at) in heard if sign != _LEFT and now - at > seconds]
    if not dead:
        return ""
    names = f"process {dead[0]}" if len(dead) == 1 else f"processes {', '.join(map(str, dead))}"
    return (
        f"{names} of {jax.process_count()} died, or cannot be reached any more; start all "
        "processes again: the run resumes from its last checkpoint"
    )


def _when_set(key: str, react: Callable[[str], None]) -> Callable[[], None]:
    """Calls `react` in a thread once any process sets a key; returns a function that ends it."""
    connection = client()

    def look() -> bool:
        try:
            value = connection.key_value_try_get(key)
        except Exception:  # The key is not set, or the run is about to end.
            return False
        react(value)
        return True

    return _poll(f"watch {key}", look)


def _poll(name: str, look: Callable[[], bool]) -> Callable[[], None]:
    """Calls `look` in a thread until it returns True; returns a function that ends the thread."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS) and not look():
            pass

    thread = threading.Thread(target=watch, daemon=True, name=name)
    thread.start()

    def stop() -> None:
        over.set()
        thread.join()

    atexit.register(stop)  # Runs before JAX leaves the run, which registered first.
    return stop
