"""Uncompressed tar archives, read in place: where each file in them is."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


class Damaged(ValueError):
    """An archive that is cut off or is no tar archive; the message gives the reason."""


class Member(NamedTuple):
    """A file in an archive: its name there, which never becomes a path, and where its bytes are."""

    name: str
    offset: int
    size: int


def scan(file: BinaryIO) -> Iterator[Member]:
    """The regular files of an archive, in its order; reads their headers alone.

    The caller may move the file's position between two of them.

    Raises:
      Damaged: the archive ends too early, or is none. The last file before it may be cut off too.
    """
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile() and not member.issparse():
                    yield Member(member.name, member.offset_data, member.size)
                end = archive.offset
            # tarfile takes a damaged header for the end, which is a block of zeros.
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise Damaged(f"cut off or damaged at byte {end}")
    except (tarfile.TarError, ArithmeticError, EOFError) as error:
        raise Damaged(f"not a whole tar archive: {error}") from error
