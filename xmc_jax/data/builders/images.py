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
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from xmc_jax.data import preprocess
from xmc_jax.data.download import open_images
from xmc_jax.data.download.http import NOT_AN_IMAGE, Failure, Fetcher, make_session
from xmc_jax.errors import UserError

# What a TFDS config's name says of the pictures: the side of a square, or as they were published.
FORMS = {
    "sq256": "the whole picture squashed to 256x256",
    "sq128": "the whole picture squashed to 128x128",
    "original": "as published where that is RGB and upright",
}
_QUALITY = 95
_TURNS = {
    90: Image.Transpose.ROTATE_90,  # Counter-clockwise, as the rotations are.
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_GRAY_MODES = ("1", "L", "LA", "F")
_MADE_BY = b"xmc_jax"  # At the beginning of a comment: …, the form, and what of these is so.
_MARKS = ("gray", "cmyk", "rotated")
_connections = threading.local()  # To servers.
_MAX_PICTURE_BYTES = 256_000_000  # Of a file in an archive; published ones have one MB or less.
_AHEAD = 8  # Pictures in flight, for each worker.
_MIN_PER_PROCESS = 64  # Fewer take less time than a process takes to start.


class Location(NamedTuple):
    """Where the bytes of a picture are.

    Attributes:
      path: A file, here or in a bucket (``gs://…``); or the address of one (``https://…``).
      member: Its name in the file, if that is a zip archive; else empty.
      rotation: See `convert`.
    """

    path: str
    member: str = ""
    rotation: int = 0

    @property
    def is_remote(self) -> bool:
        """Whether a server has it, which may say that it has not."""
        return self.path.startswith(("http://", "https://"))

    def read(self) -> bytes:
        """The bytes.

        Raises:
          OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error: they cannot be read.
        """
        if self.member:
            return read_member(_open_zip(self.path), self.member, _MAX_PICTURE_BYTES)
        return epath.Path(self.path).read_bytes()


def read_member(archive: zipfile.ZipFile, member: str, max_bytes: int) -> bytes:
    """A file in a zip archive, into memory: no name in an archive ever becomes a path.

    Raises:
      KeyError: there is no such file.
      OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error: it cannot be read, or is too
        large; zipfile reads no more of it than the archive's index says.
    """
    size = archive.getinfo(member).file_size
    if size > max_bytes:
        raise zipfile.BadZipFile(f"{member} would have {size / 1e6:.0f} MB, too many for its kind")
    return archive.read(member)


class Picture(NamedTuple):
    """A picture as it is stored.

    Attributes:
      data: The bytes of a JPEG or PNG file that decodes to upright RGB.
      height: In pixels, of the stored picture.
      width: In pixels, of the stored picture.
      gray: Whether it was published in gray.
      cmyk: Whether it was published in CMYK.
      rotated: Whether its EXIF orientation or a published rotation had to be applied.
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


def convert(data: bytes, form: str, rotation: int = 0) -> Picture:
    """Makes the stored picture of a published one; a pure function of its arguments.

    Square forms are squashed with antialias, as reading with ``crop="squash"`` would, and written
    as JPEG of quality 95 with its whole chroma: halving it would save a quarter of the bytes and
    cost 2 to 4 dB (four photographs of scikit-image at 256 px). ``"original"`` keeps the published
    bytes where they are a JPEG or PNG that decodes to upright RGB as it stands.

    What is written says in its comment what was done; so it comes back as it is when converted
    again, and a download may convert what a build then reads.

    Args:
      data: The bytes of an image file.
      form: One of `FORMS`.
      rotation: Degrees counter-clockwise to turn the pixels by: 0, 90, 180 or 270. Passed over
        where the file has an EXIF orientation: both tell of the same turn.

    Raises:
      UndecodableImage: the bytes are not a whole image, or one of another square form.
    """
    opened, side = preprocess.open_upright(data), side_of(form)
    image, notes = opened.image, opened.comment.split()
    if notes[:1] == [_MADE_BY] and len(notes) > 1:
        if notes[1] == form.encode() and (side is None or image.size == (side, side)):
            marks = (mark.encode() in notes for mark in _MARKS)
            return Picture(data, image.height, image.width, *marks)
        raise preprocess.UndecodableImage(f"made for the form {notes[1].decode(errors='replace')}")
    rotated = opened.rotated or rotation > 0
    if rotation and not opened.rotated:
        image = image.transpose(_TURNS[rotation])
    gray, cmyk = opened.mode in _GRAY_MODES or opened.mode.startswith("I"), opened.mode == "CMYK"
    if side:
        pixels = preprocess.resize(np.asarray(image), side, crop="squash", antialias=True)
        image = Image.fromarray(pixels)
    plain = opened.mode == "RGB" and not opened.transparent and not rotated
    if side or not plain or opened.format not in ("JPEG", "PNG"):
        done = [mark for mark, is_so in zip(_MARKS, (gray, cmyk, rotated), strict=True) if is_so]
        comment = b" ".join([_MADE_BY, *(word.encode() for word in [form, *done])])
        options = {"quality": _QUALITY, "subsampling": 0, "exif": b"", "comment": comment}
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **options)
        data = buffer.getvalue()
    return Picture(data, image.height, image.width, gray, cmyk, rotated)


def convert_on_arrival(data: bytes, form: str, rotation: int) -> bytes:
    """What a download keeps: small squares, or the published bytes for `convert` to begin with.

    Raises:
      ValueError: the bytes are not a whole image.
    """
    return convert(data, form, rotation).data if side_of(form) else open_images.keep(data)


def convert_at(location: Location, form: str) -> Picture | str | None:
    """`convert` of what is at a location.

    Returns:
      The picture; if it cannot be read or decoded, the reason; None if a server does not have it.

    Raises:
      UserError: the server has nothing at all.
    """
    try:
        data = _fetch(location, form) if location.is_remote else location.read()
        return convert(data, form, location.rotation)
    except Failure as failure:
        return failure.reason if failure.reason == NOT_AN_IMAGE else None
    except preprocess.UndecodableImage as error:
        return str(error)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        return f"{type(error).__name__}: {error}"


def _fetch(location: Location, form: str) -> bytes:
    if not hasattr(_connections, "session"):
        _connections.session = make_session()
    convert = functools.partial(convert_on_arrival, form=form, rotation=location.rotation)
    return _make_fetcher().fetch(_connections.session, location.path, convert)[0]


@functools.cache
def _make_fetcher() -> Fetcher:
    """One for the whole process: it sees when nothing comes any more."""
    return Fetcher()


def convert_all(
    locations: Sequence[Location], form: str, *, num_processes: int = 0
) -> Iterator[Picture | str | None]:
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
) -> Iterator[Picture | str | None]:
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
