"""Pictures as data sets store them: read from archives, checked, squashed, in many processes.

Imports neither TensorFlow nor TFDS: worker processes start with what is here.
"""

import collections
import concurrent.futures
import functools
import io
import multiprocessing
import os
import signal
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from xmc_jax.data import preprocess
from xmc_jax.errors import UserError

# What a TFDS config's name says of the pictures: the side of a square, or as they were published.
FORMS = {
    "sq256": "the whole picture squashed to 256x256",
    "sq128": "the whole picture squashed to 128x128",
    "original": "as published where that is RGB and upright",
}
_QUALITY = 95
_GRAY_MODES = ("1", "L", "LA", "F")
_AHEAD = 8  # Pictures in flight, for each worker.
_MIN_PER_PROCESS = 64  # Fewer take less time than a process takes to start.


class Location(NamedTuple):
    """Where the bytes of a picture are.

    Attributes:
      path: A file.
      member: Its name in the file, if that is a zip archive; else empty.
    """

    path: str
    member: str = ""

    def read(self) -> bytes:
        """The bytes.

        Raises:
          OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error: they cannot be read.
        """
        if self.member:
            return _open_zip(self.path).read(self.member)
        return Path(self.path).read_bytes()


class Picture(NamedTuple):
    """A picture as it is stored.

    Attributes:
      data: The bytes of a JPEG or PNG file that decodes to upright RGB.
      height: In pixels, of the stored picture.
      width: In pixels, of the stored picture.
      gray: Whether it was published in gray.
      cmyk: Whether it was published in CMYK.
      rotated: Whether its EXIF orientation had to be applied.
    """

    data: bytes
    height: int
    width: int
    gray: bool
    cmyk: bool
    rotated: bool


def side_of(form: str) -> int | None:
    """The side in pixels of a square form (``"sq256"``); None for pictures of any size."""
    return int(form.removeprefix("sq")) if form.startswith("sq") else None


def convert(data: bytes, form: str) -> Picture:
    """Makes the stored picture of a published one; a pure function of its arguments.

    Square forms are squashed with antialias, as reading with ``crop="squash"`` would, and written
    as JPEG of quality 95 with its whole chroma: halving it would save a quarter of the bytes and
    cost 2 to 4 dB (four photographs of scikit-image at 256 px). ``"original"`` keeps the published
    bytes where they are a JPEG or PNG that decodes to upright RGB as it stands.

    Args:
      data: The bytes of an image file.
      form: One of `FORMS`.

    Raises:
      UndecodableImage: the bytes are not a whole image.
    """
    opened, side = preprocess.open_upright(data), side_of(form)
    image = opened.image
    if side:
        pixels = preprocess.resize(np.asarray(image), side, crop="squash", antialias=True)
        image = Image.fromarray(pixels)
    plain = opened.mode == "RGB" and not opened.transparent and not opened.rotated
    if side or not plain or opened.format not in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0, exif=b"")
        data = buffer.getvalue()
    gray = opened.mode in _GRAY_MODES or opened.mode.startswith("I")
    width, height = image.size
    return Picture(data, height, width, gray, opened.mode == "CMYK", opened.rotated)


def convert_at(location: Location, form: str) -> Picture | str:
    """`convert` of what is at a location; if that cannot be read or decoded, the reason."""
    try:
        return convert(location.read(), form)
    except preprocess.UndecodableImage as error:
        return str(error)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        return f"{type(error).__name__}: {error}"


def convert_all(
    locations: Sequence[Location], form: str, *, num_processes: int = 0
) -> Iterator[Picture | str]:
    """`convert_at` of every location, in their order; the same whatever the number of processes.

    Args:
      locations: Where the pictures are.
      form: One of `FORMS`.
      num_processes: How many work at most; one for each CPU core if 0.

    Raises:
      UserError: a worker process was killed from outside.
    """
    num_processes = num_processes or os.cpu_count() or 1
    num_processes = min(num_processes, len(locations) // _MIN_PER_PROCESS)
    try:
        if num_processes < 2:
            for location in locations:
                yield convert_at(location, form)
        else:
            yield from _convert_in_pool(locations, form, num_processes)
    finally:
        _open_zip.cache_clear()  # The next build may find other archives at the same place.


def _convert_in_pool(
    locations: Sequence[Location], form: str, num_processes: int
) -> Iterator[Picture | str]:
    # Spawned, not forked: TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=_start_worker
    )
    pending = collections.deque()
    try:
        for location in locations:
            pending.append(pool.submit(convert_at, location, form))
            if len(pending) == _AHEAD * num_processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a process that converts pictures was killed, perhaps for want of memory; "
            "try again with --num_processes=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@functools.lru_cache(maxsize=8)
def _open_zip(path: str) -> zipfile.ZipFile:
    """A handle of this process's own."""
    return zipfile.ZipFile(path)
