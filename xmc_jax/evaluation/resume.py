"""Rows on disk, a file a batch, which a killed evaluation finds again."""

import contextlib
import io
import os
import shutil

import jax
import numpy as np
from etils import epath
from jaxtyping import Shaped

from xmc_jax.errors import UserError
from xmc_jax.parallel import processes


class ResumableRows:
    """The batches that one kind of work has done so far, each process's rows in files of its own.

    A batch is there wholly or not at all. Folders may be local or remote; where processes do not
    share one, each finds its own files.

    Args:
      folder: Made when the first batch is written.
      name: Of the work, and the beginning of the files' names.
    """

    def __init__(self, folder: epath.Path, name: str):
        self._folder = folder
        self._prefix = f"{name}_{jax.process_index()}of{jax.process_count()}_"

    def num_done(self) -> int:
        """How many batches, from the first on, are there in all processes; all must call it."""
        names = set()
        if self._folder.exists():
            names = {path.name for path in self._folder.iterdir()}
        done = 0
        while self._path(done).name in names:
            done += 1
        return int(processes.gather(np.int64([done])).min())

    def write(self, index: int, rows: Shaped[np.ndarray, "b ..."]) -> None:
        """Puts a batch in its place.

        Raises:
          UserError: the disk does not take it.
        """
        data = io.BytesIO()
        np.save(data, rows, allow_pickle=False)
        path = self._path(index)
        temporary = path.parent / f"{path.name}.new"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data.getvalue())
            temporary.replace(path)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}; mend that and start again: the "
                "evaluation goes on from there"
            ) from error

    def read(self, index: int) -> Shaped[np.ndarray, "b ..."]:
        """A batch that is there.

        Raises:
          UserError: its file is damaged, or was deleted meanwhile.
        """
        path = self._path(index)
        try:
            return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); delete its folder and evaluate again"
            ) from error

    def _path(self, index: int) -> epath.Path:
        return self._folder / f"{self._prefix}{index:06d}.npy"


def check_space(folder: epath.Path, num_bytes: int) -> None:
    """Refuses work whose rows the disk cannot hold; says nothing of remote folders.

    Raises:
      UserError: naming what is needed and what is free.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if "://" in str(folder):
        return
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise UserError(
            f"the evaluation needs {num_bytes / 1e6:.0f} MB in {folder} and {free / 1e6:.0f} MB "
            "are free; make room, or lower config.eval.num_examples"
        )


def remove(folder: epath.Path) -> None:
    """Deletes a folder of which every process has one, be it the same or its own."""
    if "://" not in str(folder):
        shutil.rmtree(folder, ignore_errors=True)  # Processes that share it come here at once.
        with contextlib.suppress(OSError):  # Others are in it.
            os.rmdir(folder.parent)
    elif processes.is_first() and folder.exists():
        folder.rmtree()
