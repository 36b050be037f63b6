"""Several processes as one run: how they find each other, wait for each other, and stop together.

Everything here also holds for a single process, which is the first and the last of its run.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from xmc_jax.errors import UserError

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
_LONGEST_WAIT_SECONDS = 24 * 3600
_ANSWER_SECONDS = 30


def join(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Makes this process one of a run; to be called before anything touches a device.

    Without arguments, a cluster that JAX knows (Cloud TPU, GKE, Slurm, Open MPI) is joined, and
    elsewhere the process stays alone.

    Args:
      coordinator_address: ``host:port`` of process 0, as all others reach it.
      num_processes: How many there are.
      process_id: Which one this is, from 0.

    Raises:
      UserError: one of the arguments is missing or wrong, or the others were not reached.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(f"{', '.join(missing)} is missing: {', '.join(given)} belong together")
    if not missing and not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id} is not one of {num_processes} processes")
    if not missing:
        place = f"process {process_id} of {num_processes}"
        print(f"{place}: meeting the others at {coordinator_address}", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except ValueError as error:
        if missing and "coordinator_address should be defined" in str(error):
            return  # No cluster around: one process.
        raise UserError(f"could not join the run's processes: {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"could not meet the other processes at {coordinator_address}: {reason}; start all "
            "of them within five minutes, with the address at which they reach process 0"
        ) from error
    if jax.process_count() > 1:
        _watch_others()
        _LifeSigns()


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
    from jax.experimental import multihost_utils

    # As bytes: JAX would make float32 of float64, and say nothing.
    sent = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    received = np.ascontiguousarray(multihost_utils.process_allgather(sent))
    return received.view(array.dtype).reshape(-1, *array.shape)


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
    client = _client()
    if client is None:
        return
    message = f"{exit_code} process {jax.process_index()} stopped: {reason}"
    with contextlib.suppress(Exception):  # Another process was first.
        client.key_value_set(_STOPPED, message)
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
        self._client = _client()
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


def _watch_others() -> None:
    own = f" process {jax.process_index()} stopped: "

    def leave(message: str) -> None:
        if own in message:
            return
        exit_code, reason = message.split(" ", 1)
        print(f"{'error: ' * (exit_code != '0')}{reason}", file=sys.stderr, flush=True)
        _exit(int(exit_code))

    _when_set(_STOPPED, leave)


class _LifeSigns:
    """A thread that shows that this process lives, and ends it when another does not."""

    # What each process said last, and when that was heard.
    heard: dict[int, tuple[str, float]] = {}

    def __init__(self):
        self._client, self._over = _client(), threading.Event()
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
    client, over = _client(), threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            try:
                value = client.key_value_try_get(key)
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


def wait_for_all(name: str, seconds: int = _LONGEST_WAIT_SECONDS) -> None:
    """Returns when every process has called it; those of one run may take hours."""
    if client := _client():
        client.wait_at_barrier(f"xmc_jax/{name}", timeout_in_ms=seconds * 1000)


def _client():
    """The connection to process 0, or None if this process is alone.

    JAX has no public name for it; its collectives wait on devices, for half a minute at most, and
    are of no use to a process that failed.
    """
    from jax._src import distributed

    return distributed.global_state.client if jax.process_count() > 1 else None
