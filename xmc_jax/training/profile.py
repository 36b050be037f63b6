"""Profiles of some training steps, for TensorBoard's profiler and for Perfetto."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath

from xmc_jax import files
from xmc_jax.errors import UserError
from xmc_jax.parallel import processes
from xmc_jax.types import PyTree


def parse_steps(text: str) -> range:
    """The steps of ``STEP:COUNT``: `COUNT` steps from step `STEP` on; of an empty text, none.

    Raises:
      UserError: it is not written like this, or a number is 0.
    """
    if not text:
        return range(0)
    if not (found := re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)):
        raise UserError(f"--profile={text} is not STEP:COUNT, e.g. 100:5, both at least 1")
    first, count = map(int, found.groups())
    return range(first, first + count)


class Profiler:
    """Records what hosts and devices do during some steps, and what Python calls meanwhile.

    Every process writes a file of its own to ``plugins/profile/`` in the workdir, where TensorBoard
    looks for it; the first process also writes ``perfetto_trace.json.gz``.

    Args:
      workdir: Folder of the run.
      steps: Steps to record; empty: none.
    """

    def __init__(self, workdir: epath.PathLike, steps: range = range(0)):
        self._workdir, self._steps = epath.Path(workdir), steps
        self._stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the step that leads to step `number`."""
        if number not in self._steps:
            yield
            return
        if number == self._steps.start:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            jax.profiler.start_trace(folder, create_perfetto_trace=processes.is_first())
            self._stack.callback(self._write, Path(folder))
            self._stack.callback(jax.profiler.stop_trace)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def end(self, number: int, results: PyTree) -> None:
        """After a step: if it is the last one to record, waits for its results and writes."""
        if self._steps and number == self._steps[-1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes what was recorded, if anything; the last step need not have been reached."""
        self._stack.close()

    def _write(self, folder: Path) -> None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = self._workdir / path.relative_to(folder)
            files.write_whole(target, path.read_bytes())
        processes.say(f"profile of steps from {self._steps.start} on: {target.parent}")
