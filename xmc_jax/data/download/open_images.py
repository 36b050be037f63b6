"""Downloads images of Open Images to a folder: in parallel, resumable, every file whole.

A file gets its name when all of it is on the disk; a file that is there is not asked for again.
Threads do the work: most of the time they wait for the network, and Pillow decodes and resizes
without Python's lock (only encoding a small result holds it, for half a millisecond).
"""

import contextlib
import dataclasses
import json
import os
import queue
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xmc_jax.console import Progress, format_duration
from xmc_jax.data import preprocess
from xmc_jax.data.download.http import Failure, Fetcher, Stopped
from xmc_jax.errors import UserError
from xmc_jax.files import only_one, write_whole

OPEN_IMAGES = "https://open-images-dataset.s3.amazonaws.com"
SPLITS = ("train", "validation", "test")
MISSING_FILE = "missing.jsonl"

_CONTINUE = "run the same command: it continues from here"


class RemoteImage(NamedTuple):
    """An image of Open Images: its split, one of `SPLITS`, and its id of 16 hex digits."""

    split: str
    id: str


@dataclasses.dataclass
class Summary:
    """What a download has done.

    Attributes:
      num_present: Images that were there already.
      num_downloaded: Images that came.
      num_bytes: Bytes received for them.
      missing: Images that did not come, each with the reason, such as `http.NOT_AN_IMAGE`.
    """

    num_present: int = 0
    num_downloaded: int = 0
    num_bytes: int = 0
    missing: dict[RemoteImage, str] = dataclasses.field(default_factory=dict)

    def add(self, image: RemoteImage, result: int | str) -> None:
        """Adds an image: the bytes received, 0 if it was there, or why it did not come."""
        if isinstance(result, str):
            self.missing[image] = result
        else:
            self.num_present += not result
            self.num_downloaded += bool(result)
            self.num_bytes += result


def path_of(folder: str | os.PathLike, image: RemoteImage) -> Path:
    """Path of an image: ``<folder>/<split>/<first two digits>/<id>.jpg``.

    Two digits divide the half million images of the training split among 256 folders of about
    2,000 files.
    """
    return Path(folder, image.split, image.id[:2], f"{image.id}.jpg")


def keep(data: bytes, image: RemoteImage | None = None) -> bytes:
    """The published bytes as they are; raises ValueError if they are not a whole JPEG."""
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
    num_connections: int = 32,
    fetcher: Fetcher | None = None,
) -> Summary:
    """Downloads images to a folder, and lists in its ``missing.jsonl`` those that it still lacks.

    The same call continues where an earlier one was stopped or killed, which leaves no image
    incomplete. Progress goes to stderr. One call at a time may write to a folder.

    Args:
      images: The images; repeated ones count once.
      folder: Where they go. Each `convert` needs its own folder: what is there is not converted
        again.
      convert: From the bytes received for an image to those of its file. Raises ValueError or
        OSError, as Pillow does, if they are not a whole image. Many threads call it.
      base_url: The address before ``/<split>/<id>.jpg``.
      num_connections: Number of images that are asked for at the same time, at least 1.
      fetcher: Gets them; a new one by default.

    Raises:
      UserError: the folder cannot be written or another process writes to it, `base_url` gives
        nothing, or an image is not one of Open Images.
    """
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"address {base_url!r} must begin with http:// or https://")
    images, folder = list(dict.fromkeys(images)), Path(folder)
    _check_names(images)
    fetcher, started = fetcher or Fetcher(), time.monotonic()

    def bring(image: RemoteImage) -> int | str:
        """Bytes received, 0 for an image that is there, or the reason of one that does not come."""
        path, url = path_of(folder, image), f"{base_url.rstrip('/')}/{image.split}/{image.id}.jpg"
        if _is_there(path):
            # What the address lacks for good lies as far apart as in the first call.
            fetcher.note_success()
            return 0
        try:
            data, num_bytes = fetcher.fetch(url, lambda body: convert(body, image))
        except Failure as failure:
            return failure.reason
        if fetcher.stop.is_set():
            raise Stopped
        # Nobody else writes here, and what a killed process has left is replaced.
        write_whole(path, data, then=_CONTINUE, temporary=path.with_suffix(".part"))
        return num_bytes

    with only_one(folder, "downloading to"):
        missing_before, summary = read_missing(folder), Summary()
        progress = Progress(len(images), name="images", unit="images")
        results = _map_in_threads(bring, images, num_connections, fetcher.stop)
        try:
            with contextlib.closing(results):
                for count, (image, result) in enumerate(results, start=1):
                    summary.add(image, result)
                    rate = summary.num_bytes / 1e6 / (time.monotonic() - started)
                    note = f"{rate:.1f} MB/s  missing {len(summary.missing)}"
                    progress.tell(count, num_before=summary.num_present, note=note)
        except KeyboardInterrupt:
            print(f"stopped; to go on, {_CONTINUE}", file=sys.stderr, flush=True)
            raise
        finally:
            _write_missing(folder, missing_before | summary.missing)
    _print_summary(summary, time.monotonic() - started, folder / MISSING_FILE)
    return summary


def _print_summary(summary: Summary, seconds: float, list_of_missing: Path) -> None:
    reasons = Counter(summary.missing.values())
    why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    print(
        f"downloaded {summary.num_downloaded:,} images ({summary.num_bytes / 1e6:,.1f} MB) in "
        f"{format_duration(seconds)}, {summary.num_present:,} were there, "
        f"{len(summary.missing):,} are missing"
        + (f" ({why}; listed in {list_of_missing})" if why else ""),
        file=sys.stderr,
        flush=True,
    )


def _check_names(images: Iterable[RemoteImage]) -> None:
    for image in images:
        if image.split not in SPLITS or not re.fullmatch("[0-9a-f]{16}", image.id):
            raise UserError(
                f"{image.split}/{image.id} is not an image of Open Images: an id has 16 digits "
                f"0-9a-f, and splits are {', '.join(SPLITS)}"
            )


def _map_in_threads(
    function: Callable[[Any], Any], items: list, num_threads: int, stop: threading.Event
) -> Iterator[tuple[Any, Any]]:
    """Yields each item with the function's result, as they come; raises what the function raises.

    `stop` ends the threads; it is set at the end, whatever the reason.
    """
    remaining, done = iter(items), queue.SimpleQueue()  # All threads may share the iterator.

    def work() -> None:
        try:
            for item in remaining:
                if stop.is_set():
                    raise Stopped
                done.put((item, function(item)))
        except BaseException as error:
            done.put((None, error))

    # Daemons: a thread that waits for a silent server must not delay the end of the process.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_threads)]
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            item, result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield item, result
    finally:
        stop.set()
        deadline = time.monotonic() + 1.0  # To finish the files that they are writing.
        for thread in threads:
            if thread.ident is not None:  # Ctrl-C can come before it was started.
                thread.join(max(deadline - time.monotonic(), 0))


def _is_there(path: Path) -> bool:
    # What prevents reading either prevents writing too, or is overwritten.
    return os.path.isfile(path) and os.path.getsize(path) > 0


def read_missing(folder: Path) -> dict[RemoteImage, str]:
    """The images that earlier calls of `download` did not get, each with the reason."""
    path = folder / MISSING_FILE
    if not path.exists():
        return {}
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return {RemoteImage(r["split"], r["id"]): r["reason"] for r in records}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of missing images; remove it") from error


def _write_missing(folder: Path, missing: dict[RemoteImage, str]) -> None:
    """Lists the images that the folder still lacks, of this call and those before it."""
    lines = [
        json.dumps(image._asdict() | {"reason": reason}) + "\n"
        for image, reason in sorted(missing.items())
        if not _is_there(path_of(folder, image))
    ]
    write_whole(folder / MISSING_FILE, "".join(lines).encode(), then=_CONTINUE)
