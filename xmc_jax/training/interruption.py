"""SIGTERM and Ctrl-C in training: the first saves and ends the run, the second ends it at once.

Python runs signal handlers between two of its instructions; a compilation or a collective may keep
the main thread from that for minutes. So a thread waits on the pipe to which Python writes signals
the moment they arrive.
"""

import os
import signal
import socket
import sys
import threading
import time

from xmc_jax.parallel import stopping

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAVED = 0  # Exit code of a run that a signal stopped, with all its steps saved.
# One request may arrive twice: sent to all processes of a job, and passed on by the script among
# them.
_ECHO_SECONDS = 1.0


class Interruption:
    """What signals ask of a run; a context manager, entered once, in the main thread.

    Before the first step there is nothing to lose, and the first signal, too, ends the process at
    once, with `SAVED`. A second signal ends it with 128 + its number, as shells do; checkpoints are
    complete or absent, so that only the steps since the last one are lost.
    """

    def __init__(self):
        self._stop = stopping.StopTogether()
        self._requested_at: float | None = None
        self._has_steps = False

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is not threading.main_thread():
            return self  # Only the main thread may set signal handlers.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # A full pipe is no reason to warn: one byte says as much as two thousand.
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        # An ignored signal stays ignored: shells ignore Ctrl-C in background commands of a script,
        # and the script passes it on.
        heard = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, _do_nothing) for number in heard}
        self._thread = threading.Thread(target=self._listen, daemon=True, name="listen for signals")
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._writer.close()  # Ends the thread.
        self._thread.join()
        self._reader.close()
        self._stop.close()

    def is_due(self, step: int) -> bool:
        """Whether to save and end after this step, which is done; the same in every process."""
        self._has_steps = True
        return self._stop.is_due(step)

    def _listen(self) -> None:
        while received := self._reader.recv(1):
            number = received[0]
            if number in SIGNALS:
                self._receive(signal.Signals(number))

    def _receive(self, number: signal.Signals) -> None:
        now, first = time.monotonic(), self._requested_at
        if first is not None and now - first < _ECHO_SECONDS:
            return
        if first is not None:
            _end(f"{number.name} again: ended without saving", 128 + number)
        self._requested_at = now
        if not self._has_steps:
            _end(f"{number.name} before the first step: there is nothing to save", SAVED)
        print(f"{number.name}: saving; a second signal ends at once", file=sys.stderr, flush=True)
        self._stop.ask()


def _do_nothing(number: int, frame: object) -> None:
    """Handles a signal: it then does not end the process, and is written to the pipe."""


def _end(message: str, exit_code: int) -> None:
    print(f"{message}; the same command resumes", file=sys.stderr, flush=True)
    sys.stdout.flush()
    stopping.stop_others(message, exit_code)
    os._exit(exit_code)
