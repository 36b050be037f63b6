"""Arrays on disk, one file for each batch, from which a killed evaluation resumes."""

import contextlib
import io
import os
import shutil

import jax
import numpy as np
from etils import epath
from jaxtyping import Shaped

from xmc_jax import files
from xmc_jax.errors import UserError, reason
from xmc_jax.parallel import processes


class ResumableRows:
    """Rows that a task has computed so far, batch by batch, in one folder.

    A batch is on disk completely or not at all. Each process has files of its own, so processes may
    share the folder or have one each. It may be local or remote, and is created with the first
    batch. File names begin with the name of the task.
    """

    def __init__(self, folder: epath.Path, name: str):
        self._folder = folder
        self._prefix = f"{name}_{jax.process_index()}of{jax.process_count()}_"

    def num_done(self) -> int:
        """Number of first batches that all processes have; all processes must call it."""
        there, done = self._folder.exists(), 0
        names = {path.name for path in self._folder.iterdir()} if there else set()
        while self._path(done).name in names:
            done += 1
        return int(processes.gather(np.int64([done])).min())

    def write(self, index: int, rows: Shaped[np.ndarray, "b ..."]) -> None:
        """Writes a batch; a UserError if the file cannot be written."""
        then = "start again: the evaluation resumes"
        files.write_whole(self._path(index), to_npy(rows), then=then)

    def read(self, index: int) -> Shaped[np.ndarray, "b ..."]:
        """Reads a batch that was written; a UserError if its file is damaged or missing."""
        path = self._path(index)
        try:
            return from_npy(path.read_bytes())
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} cannot be read ({reason(error)}); delete its folder and evaluate again"
            ) from error

    def _path(self, index: int) -> epath.Path:
        return self._folder / f"{self._prefix}{index:06d}.npy"


def to_npy(array: Shaped[np.ndarray, "..."]) -> bytes:
    """The bytes of a ``.npy`` file."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def from_npy(data: bytes) -> Shaped[np.ndarray, "..."]:
    """The array in the bytes of a ``.npy`` file; a ValueError or EOFError if they are damaged."""
    return np.load(io.BytesIO(data), allow_pickle=False)


def measuring_alone(folder: epath.Path) -> contextlib.AbstractContextManager:
    """Keeps other evaluations out of a folder: the first to end would remove it for both.

    The first process holds the lock. Raises UserError if another evaluation holds it. Buckets have
    no locks.
    """
    if files.is_remote(folder) or not processes.is_first():
        return contextlib.nullcontext()
    return files.only_one(folder, "measuring the same images in")


def remove(folder: epath.Path) -> None:
    """Deletes the folder of a finished task, whether processes share it or have one each."""
    if not files.is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)  # Others may delete it at the same time.
        with contextlib.suppress(OSError):  # The parent holds another evaluation.
            os.rmdir(folder.parent)
    elif processes.is_first() and folder.exists():
        folder.rmtree()
