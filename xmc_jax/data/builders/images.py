"""Images as data sets store them: read from archives, checked, squashed, in many processes.

Worker processes import this module, so it imports neither TensorFlow nor TFDS.
"""

import collections
import concurrent.futures
import functools
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from etils import epath
from PIL import Image

from xmc_jax.data import preprocess, workers
from xmc_jax.data.download import open_images
from xmc_jax.data.download.http import NOT_AN_IMAGE, Failure, Fetcher
from xmc_jax.errors import UserError

# How images are stored, by the last part of the name of a TFDS config.
FORMS = {
    "sq256": "the whole image squashed to 256x256",
    "sq128": "the whole image squashed to 128x128",
    "original": "as published where that is RGB and upright",
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")  # Of files that are images.
_TURNS = {  # By degrees counter-clockwise, as in the published rotations.
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
# The comment of a converted file: this word, the form, and those of the marks that apply.
_MADE_BY = b"xmc_jax"
_MARKS = ("gray", "cmyk", "rotated")
_MAX_IMAGE_BYTES = 256_000_000  # Of a file in an archive; published ones have one MB or less.


class Location(NamedTuple):
    """Where the bytes of an image are.

    Attributes:
      path: A file, local or in a bucket (``gs://…``), or a web address (``https://…``).
      member: Name of the image in the file if that is a zip archive; otherwise empty.
      rotation, background: See `convert`.
      offset, size: The bytes of the image in the file, such as those in an uncompressed tar
        archive; all of the file if the size is None.
    """

    path: str
    member: str = ""
    rotation: int = 0
    background: str = "white"
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """The bytes of the image; raises what `convert_at` catches if they cannot be read."""
        if self.member:
            return read_member(_open_zip(self.path), self.member, _MAX_IMAGE_BYTES)
        if self.size is None:
            return epath.Path(self.path).read_bytes()
        with epath.Path(self.path).open("rb") as file:
            file.seek(self.offset)
            data = file.read(min(self.size, _MAX_IMAGE_BYTES))
        if len(data) != self.size:
            raise EOFError(f"{len(data)} of {self.size} bytes")
        return data


def read_member(archive: zipfile.ZipFile, member: str, max_bytes: int) -> bytes:
    """Reads a file in a zip archive into memory: no name in an archive ever becomes a path.

    zipfile reads no more of it than the index of the archive says.

    Raises:
      KeyError: there is no such file.
      OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error: it is damaged or too large.
    """
    size = archive.getinfo(member).file_size
    if size > max_bytes:
        raise zipfile.BadZipFile(f"{member} would have {size / 1e6:.0f} MB, too many for its kind")
    return archive.read(member)


class StoredImage(NamedTuple):
    """An image as it is stored.

    Attributes:
      data: The bytes of a JPEG or PNG file that decodes to upright RGB.
      height, width: In pixels, of the stored image.
      gray, cmyk: Whether it was published so.
      rotated: Whether an EXIF orientation or a published rotation was applied.
    """

    data: bytes
    height: int
    width: int
    gray: bool
    cmyk: bool
    rotated: bool


def side_of(form: str) -> int | None:
    """The side in pixels of a square form (``"sq256"``); None for images of any size."""
    return int(form.removeprefix("sq")) if form.startswith("sq") else None


def convert(data: bytes, form: str, rotation: int = 0, background: str = "white") -> StoredImage:
    """Makes the stored image from a published one; a pure function of its arguments.

    Square forms are squashed with antialias, as reading with ``crop="squash"`` would do, and
    written as JPEG of quality 95 without chroma subsampling: subsampling would save a quarter of
    the bytes and cost 2 to 4 dB (four photographs of scikit-image at 256 px). ``"original"`` keeps
    the published bytes if they are a JPEG or PNG that decodes to upright RGB.

    The comment of a converted file says what was done. Converting such a file again returns it
    unchanged, so a download may convert what a build reads later.

    Args:
      data: The bytes of an image file.
      form: ``"original"``, or ``"sq"`` and the side of a square in pixels.
      rotation: Degrees counter-clockwise to turn the pixels by: 0, 90, 180 or 270. Ignored if the
        file has an EXIF orientation, which describes the same turn.
      background: Colour behind transparent pixels, as Pillow names it.

    Raises:
      UndecodableImage: the bytes are not a whole image, or were converted to another square form.
    """
    opened, side = preprocess.open_upright(data, background), side_of(form)
    image, notes = opened.image, opened.comment.split()
    if notes[:1] == [_MADE_BY] and len(notes) > 1:
        if notes[1] == form.encode() and (side is None or image.size == (side, side)):
            marks = (mark.encode() in notes for mark in _MARKS)
            return StoredImage(data, image.height, image.width, *marks)
        raise preprocess.UndecodableImage(f"made for the form {notes[1].decode(errors='replace')}")
    rotated = opened.rotated or rotation > 0
    if rotation and not opened.rotated:
        image = image.transpose(_TURNS[rotation])
    gray = opened.mode in ("1", "L", "LA", "F") or opened.mode.startswith("I")
    cmyk = opened.mode == "CMYK"
    if side:
        image = preprocess.resize(image, side, crop="squash", antialias=True)
    plain = opened.mode == "RGB" and not opened.transparent and not rotated
    if side or not plain or opened.format not in ("JPEG", "PNG"):
        done = [mark for mark, is_so in zip(_MARKS, (gray, cmyk, rotated), strict=True) if is_so]
        comment = b" ".join([_MADE_BY, *(word.encode() for word in [form, *done])])
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95, subsampling=0, exif=b"", comment=comment)
        data = buffer.getvalue()
    return StoredImage(data, image.height, image.width, gray, cmyk, rotated)


def convert_on_arrival(data: bytes, form: str, rotation: int) -> bytes:
    """What a download stores: a small square, or the published bytes for `convert` to read later.

    Raises ValueError if the bytes are not a whole image.
    """
    return convert(data, form, rotation).data if side_of(form) else open_images.keep(data)


def convert_at(location: Location, form: str) -> StoredImage | str | None:
    """`convert` of the image at a location.

    Returns:
      The image; if it cannot be read or decoded, the reason; None if a server does not have it.

    Raises:
      UserError: no image comes from the server any more.
    """
    try:
        if location.path.startswith(("http://", "https://")):
            keep = functools.partial(convert_on_arrival, form=form, rotation=location.rotation)
            data, _ = _make_fetcher().fetch(location.path, keep)
        else:
            data = location.read()
        return convert(data, form, location.rotation, location.background)
    except Failure as failure:
        return failure.reason if failure.reason == NOT_AN_IMAGE else None
    except preprocess.UndecodableImage as error:
        return str(error)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        return f"{type(error).__name__}: {error}"


# One for the whole process, so that it notices when nothing comes any more.
_make_fetcher = functools.cache(Fetcher)


def convert_all(
    locations: Sequence[Location], form: str, *, num_processes: int = 0
) -> Iterator[StoredImage | str | None]:
    """`convert_at` of every location, in their order, whatever the number of processes.

    There is one process for each CPU core if `num_processes` is 0.

    Raises:
      UserError: a worker process was killed.
    """
    num_processes = num_processes or os.cpu_count() or 1
    # Fewer than 64 images are converted faster than a process starts.
    num_processes = min(num_processes, len(locations) // 64)
    try:
        if num_processes < 2:
            for location in locations:
                yield convert_at(location, form)
        else:
            yield from _convert_in_pool(locations, form, num_processes)
    finally:
        _open_zip.cache_clear()  # The next build may find other archives under the same path.


def _convert_in_pool(
    locations: Sequence[Location], form: str, num_processes: int
) -> Iterator[StoredImage | str | None]:
    pool, pending = workers.start_pool(num_processes), collections.deque()
    try:
        for location in locations:
            pending.append(pool.submit(convert_at, location, form))
            if len(pending) == 8 * num_processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a process that converts images was killed; it may have run out of memory: try again "
            "with --num_processes=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=8)
def _open_zip(path: str) -> zipfile.ZipFile:
    """An open archive; each process has its own."""
    return zipfile.ZipFile(path)
