"""One process at a time in a folder: a lock that goes with its process, however that ends."""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from xmc_jax.errors import UserError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def only_one(folder: str | os.PathLike, task: str) -> Iterator[None]:
    """Keeps a second process that asks for the same out of a folder.

    The system holds the lock (flock), not the file that stays behind: kill -9 leaves none. Buckets
    (``gs://…``) and some network file systems have no such locks; a notice says so.

    Args:
      folder: Made if it is not there.
      task: What is done there: "training in", "downloading to".

    Raises:
      UserError: another process is there, or the folder cannot be written.
    """
    if "://" in os.fspath(folder):
        _tell_no_lock(folder, task, "it is in a bucket")
        yield
        return
    path = Path(folder).expanduser() / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; mend that, then go on") from error
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
            _tell_no_lock(folder, task, error.strerror)
        with contextlib.suppress(OSError):  # The name is a courtesy: a full disk may refuse it.
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _tell_no_lock(folder: str | os.PathLike, task: str, reason: str) -> None:
    print(
        f"notice: {folder} cannot be locked ({reason}); let no second command be {task} it",
        file=sys.stderr,
        flush=True,
    )
