"""Writing to folders, local or remote: whole files, free space, one process at a time."""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from xmc_jax.console import notice
from xmc_jax.errors import UserError, reason

LOCK_FILE = ".lock"
HUB = "hf://"  # Addresses of models on the Hugging Face Hub begin so.


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is an address such as ``gs://bucket/run``."""
    return "://" in os.fspath(path)


def check_address(folder: epath.PathLike) -> None:
    """Refuses what is not the path of a folder, local or remote.

    Raises:
      UserError: it is the address of a model on the Hugging Face Hub, or of a kind that epath does
        not know.
    """
    if os.fspath(folder).startswith(HUB):
        raise UserError(
            f"{folder} is on the Hugging Face Hub: this needs a folder of your own; fetch it with "
            "`hf download USER/NAME --local-dir=FOLDER`, or publish by `export --push=USER/NAME`"
        )
    check_kind(folder)


def check_kind(folder: epath.PathLike) -> None:
    """Refuses an address ``KIND://…`` of a kind that epath does not know.

    Raises:
      UserError: it is one.
    """
    try:
        epath.Path(folder)
    except KeyError as error:
        raise UserError(
            f"{folder}: there are no folders at {error.args[0]}; write a path, gs://… or s3://…"
        ) from error


def cache_dir() -> epath.Path:
    """What may be computed again is kept here: ``$XDG_CACHE_HOME/xmc_jax``."""
    return epath.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "xmc_jax"


def ensure_writable(folder: epath.PathLike) -> None:
    """Creates a folder where there is none, and writes a file in it to prove that this works.

    Raises:
      UserError: it does not work, with the reason that the system gives.
    """
    check_address(folder)
    probe = epath.Path(folder) / ".writable"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {reason(error)}; choose another folder"
        ) from error


@contextlib.contextmanager
def writing(path: epath.PathLike, *, then: str) -> Iterator[None]:
    """Turns an `OSError` in the block into a `UserError` about a file that cannot be written.

    Args:
      path: The file.
      then: What to do once the cause is mended, such as "start again: training resumes".

    Raises:
      UserError: the disk is full, the folder is gone or read-only, …
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; mend that and {then}") from error


def write_whole(
    path: epath.PathLike,
    data: bytes,
    *,
    then: str = "start again",
    temporary: epath.PathLike | None = None,
) -> None:
    """Creates or replaces a file in a single move, so that no reader ever sees a part of it.

    The bytes are on the disk before the file has its name: a file that is there after a power loss
    is whole. Missing parent folders are created. Of processes that write the same file the last one
    wins.

    Args:
      path: The file.
      data: All of its bytes.
      then: See `writing`.
      temporary: Where the bytes go first, in a folder of the same disk. By default a file beside
        `path` that names this process, so that two processes can write the same file.

    Raises:
      UserError: the file cannot be written; an older one is still whole.
    """
    path = epath.Path(path)
    temporary = epath.Path(temporary or path.parent / f".{path.name}.{os.getpid()}")
    with writing(path, then=then):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                if not is_remote(path):
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def check_space(folder: epath.PathLike, num_bytes: int, *, task: str, mend: str) -> None:
    """Refuses work that the disk has no room for. Passes for remote folders, which have no limit.

    Args:
      folder: Where the bytes will go; it need not exist yet.
      num_bytes: How many.
      task: What needs the room, for the message: "the evaluation".
      mend: What else helps besides making room, for the message.

    Raises:
      UserError: naming what is needed and what is free.
    """
    if is_remote(folder):
        return
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise UserError(
            f"{task} needs {num_bytes / 1e6:.0f} MB in {folder} and {free / 1e6:.0f} MB are free; "
            f"make room{mend}"
        )


@contextlib.contextmanager
def only_one(folder: epath.PathLike, task: str, *, lock_file: str = LOCK_FILE) -> Iterator[None]:
    """Locks a folder against a second process that would do the same in it.

    The operating system holds the lock (flock), not the file: it ends with its process, even by
    kill -9. Buckets (``gs://…``) and some network file systems have no locks; a notice says so.

    Args:
      folder: Created if it does not exist.
      task: What is done there: "training in", "downloading to".
      lock_file: Name of the file in the folder that carries the lock. Tasks with different files do
        not exclude each other.

    Raises:
      UserError: another process holds the lock, or the folder cannot be written.
    """
    if is_remote(folder):
        _tell_no_lock(folder, task, "it is in a bucket")
        yield
        return
    path = Path(folder).expanduser() / lock_file
    with writing(path, then="start again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise UserError(
                f"{owner} is {task} {folder}; let it end, or choose another folder"
            ) from error
        except OSError as error:
            _tell_no_lock(folder, task, reason(error))
        with contextlib.suppress(OSError):  # The name is a courtesy: a full disk may refuse it.
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _tell_no_lock(folder: epath.PathLike, task: str, why: str) -> None:
    notice(f"{folder} cannot be locked ({why}); let no second command be {task} it")
