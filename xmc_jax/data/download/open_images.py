"""The pictures of Open Images to a folder: many at once, resumable, every file whole.

A file gets its name only when all of it is on the disk; what has its name is not asked for again.
Threads do the work: they wait for the network most of the time, and Pillow decodes and resizes
without Python's lock (only encoding a small result holds it, for half a millisecond).
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import requests

from xmc_jax.console import Progress, format_duration
from xmc_jax.data import preprocess
from xmc_jax.data.download.http import Failure, Fetcher, Stopped, make_session
from xmc_jax.errors import UserError
from xmc_jax.files import only_one

OPEN_IMAGES = "https://open-images-dataset.s3.amazonaws.com"
SPLITS = ("train", "validation", "test")
MISSING_FILE = "missing.jsonl"

_STOP_SECONDS = 2.0


class RemoteImage(NamedTuple):
    """A picture of Open Images: its split, one of `SPLITS`, and its 16 hex digits."""

    split: str
    id: str


class Summary(NamedTuple):
    """What a call did.

    Attributes:
      num_present: Images that were there already, or were named twice.
      num_downloaded: Images that came.
      num_bytes: Bytes of those, as received.
      missing: How many images did not come, by reason; `fetch.NOT_AN_IMAGE` is one.
    """

    num_present: int
    num_downloaded: int
    num_bytes: int
    missing: dict[str, int]


def path_of(folder: str | os.PathLike, image: RemoteImage) -> Path:
    """Where an image lies: ``<folder>/<split>/<first two digits>/<id>.jpg``.

    Two digits make 256 folders of about 2,000 files from the half million of the training split:
    few enough in each to list, and few enough folders to walk.
    """
    return Path(folder, image.split, image.id[:2], f"{image.id}.jpg")


def keep(data: bytes, image: RemoteImage | None = None) -> bytes:
    """The published bytes as they are, if they are a whole JPEG; whichever image it is.

    Raises:
      ValueError: they are not.
    """
    del image
    if not data.startswith(b"\xff\xd8"):
        raise ValueError("not a JPEG")
    preprocess.decode(data, "as received")
    return data


def download(
    images: Iterable[RemoteImage],
    folder: str | os.PathLike,
    *,
    convert: Callable[[bytes, RemoteImage], bytes] = keep,
    base_url: str = OPEN_IMAGES,
    num_images: int | None = None,
    num_connections: int = 32,
    verify: bool = False,
    timeout: float = Fetcher.timeout,
    num_attempts: int = Fetcher.num_attempts,
    backoff: float = Fetcher.backoff,
) -> Summary:
    """Brings images to a folder, and lists those that it still lacks in its ``missing.jsonl``.

    The same call goes on where another was stopped or killed. Progress goes to stderr. Ctrl-C and
    SIGTERM stop it at once and leave nothing half. One call at a time may fill a folder.

    Args:
      images: What to bring. Read by the threads, one at a time, as far as they have come.
      folder: Where to. A folder for each `convert`: what is there is not converted again.
      convert: From the bytes received for an image to those of its file. Raises ValueError or
        OSError, as Pillow does, if they are no whole image. Called by many threads.
      base_url: What stands before ``/<split>/<id>.jpg``.
      num_images: How many `images` there are, for the ETA; by default their length, if they have
        one.
      num_connections: How many images to ask for at a time, at least 1.
      verify: Whether to decode what is there, and bring anew what cannot be.
      timeout: Seconds without an answer after which an attempt is given up.
      num_attempts: How often to ask for an image, at least 1.
      backoff: Seconds before the second attempt; each further wait is twice as long.

    Raises:
      UserError: the folder cannot be written or is being filled already, nothing is to be had from
        `base_url`, or an image is none of Open Images.
    """
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"address {base_url!r} must begin with http:// or https://")
    if num_connections < 1:
        raise UserError(f"num_connections={num_connections} must be at least 1")
    if num_images is None and hasattr(images, "__len__"):
        num_images = len(images)
    folder = Path(folder)
    fetcher = Fetcher(timeout, num_attempts, backoff, threading.Event())
    with only_one(folder, "downloading to"), _sigterm_like_ctrl_c():
        missing_before = read_missing(folder)
        run = _Run(iter(images), folder, base_url.rstrip("/"), convert, fetcher, verify, num_images)
        try:
            run.work(num_connections)
        except (KeyboardInterrupt, SystemExit):
            print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
            raise
        finally:
            _write_missing(folder, missing_before | run.missing)
    run.print_summary()
    return run.summary()


@dataclasses.dataclass
class _Run:
    """The threads of one call and what they have done."""

    images: Iterator[RemoteImage]
    folder: Path
    base_url: str
    convert: Callable[[bytes, RemoteImage], bytes]
    fetcher: Fetcher
    verify: bool
    num_images: int | None
    missing: dict[RemoteImage, str] = dataclasses.field(default_factory=dict)
    num_present: int = 0
    num_downloaded: int = 0
    num_bytes: int = 0
    _active: set[RemoteImage] = dataclasses.field(default_factory=set)
    _error: BaseException | None = None
    _start: float = dataclasses.field(default_factory=time.monotonic)
    # Two locks: a slow source of names must not hold up those who have an image to count.
    _source_lock: contextlib.AbstractContextManager = dataclasses.field(
        default_factory=threading.Lock
    )
    _lock: contextlib.AbstractContextManager = dataclasses.field(default_factory=threading.Lock)

    def work(self, num_threads: int) -> None:
        """Brings everything; raises what a thread raised."""
        # Daemons: one that waits for a silent server must not hold up the end of the process.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_threads)]
        progress = Progress(self.num_images, name="images", unit="images")
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self.fetcher.stop.is_set():
                    thread.join(0.1)
                    self._tell(progress)
        finally:
            self.fetcher.stop.set()
            deadline = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                if thread.ident is not None:  # Ctrl-C may come before it was started.
                    thread.join(max(deadline - time.monotonic(), 0))
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            with make_session() as session:
                while not self.fetcher.stop.is_set() and (image := self._next()) is not None:
                    self._bring(session, image)
        except Stopped:
            pass
        except BaseException as error:  # Whatever it is, the caller's thread raises it.
            with self._lock:
                self._error = self._error or error
            self.fetcher.stop.set()

    def _next(self) -> RemoteImage | None:
        """The next image that no other thread is at."""
        while True:
            with self._source_lock:
                image = next(self.images, None)
            if image is None:
                return None
            if image.split not in SPLITS or not re.fullmatch("[0-9a-f]{16}", image.id):
                raise UserError(
                    f"{image.split}/{image.id} is no image of Open Images: its id is 16 digits "
                    f"0-9a-f, its split one of {', '.join(SPLITS)}"
                )
            with self._lock:
                if image not in self._active:
                    self._active.add(image)
                    return image
                self.num_present += 1

    def _bring(self, session: requests.Session, image: RemoteImage) -> None:
        path, num_bytes, reason = path_of(self.folder, image), 0, None
        is_present = _is_there(path, decode=self.verify)
        if not is_present:
            url = f"{self.base_url}/{image.split}/{image.id}.jpg"
            try:
                data, num_bytes = self.fetcher.fetch(
                    session, url, lambda body: self.convert(body, image)
                )
                if self.fetcher.stop.is_set():
                    raise Stopped
                _write(path, data)
            except Failure as failure:
                reason = failure.reason
        with self._lock:
            self._active.remove(image)
            if reason:
                self.missing[image] = reason
                return
            self.num_present += is_present
            self.num_downloaded += not is_present
            self.num_bytes += num_bytes

    def summary(self) -> Summary:
        reasons = dict(Counter(self.missing.values()))
        return Summary(self.num_present, self.num_downloaded, self.num_bytes, reasons)

    def _tell(self, progress: Progress) -> None:
        done = self.num_present + self.num_downloaded + len(self.missing)
        rate = self.num_bytes / 1e6 / (time.monotonic() - self._start)
        note = f"{rate:.1f} MB/s  missing {len(self.missing)}"
        progress.tell(done, num_before=self.num_present, note=note)

    def print_summary(self) -> None:
        reasons = sorted(self.summary().missing.items())
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        print(
            f"downloaded {self.num_downloaded:,} images ({self.num_bytes / 1e6:,.1f} MB) in "
            f"{format_duration(time.monotonic() - self._start)}, {self.num_present:,} were there, "
            f"{len(self.missing):,} are missing"
            + (f" ({why}; listed in {self.folder / MISSING_FILE})" if why else ""),
            file=sys.stderr,
            flush=True,
        )


def _is_there(path: Path, *, decode: bool) -> bool:
    """Whether an image is there; one that cannot be decoded is removed, if asked to decode."""
    try:
        if path.stat().st_size == 0:
            return False
        if decode:
            preprocess.decode(path.read_bytes(), str(path))
    except OSError:
        return False  # Whatever hinders reading will stop the writing too, or be replaced.
    except UserError:
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    """Writes a file so that it has its name only when all of it is on the disk.

    A killed process leaves its temporary file; the next attempt at the same image takes its place.
    """
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror}; mend that, then run the same command: it goes on "
        "from here"
    )


def read_missing(folder: Path) -> dict[RemoteImage, str]:
    """The images that `download` was asked for and the folder lacks, and why."""
    path = folder / MISSING_FILE
    if not path.exists():
        return {}
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return {RemoteImage(r["split"], r["id"]): r["reason"] for r in records}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of missing images; remove it") from error


def _write_missing(folder: Path, missing: dict[RemoteImage, str]) -> None:
    """Lists what the folder lacks of all that this call and those before it asked for."""
    lines = [
        json.dumps(image._asdict() | {"reason": reason}) + "\n"
        for image, reason in sorted(missing.items())
        if not _is_there(path_of(folder, image), decode=False)
    ]
    _write(folder / MISSING_FILE, "".join(lines).encode())


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """SIGTERM raises in the main thread, as Ctrl-C does, so that what must be closed is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may set what a signal does.
        return

    def leave(number, _frame):
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
