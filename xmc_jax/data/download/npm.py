"""Published npm packages: found or downloaded, verified, and read in place."""

import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xmc_jax.data.builders import tars
from xmc_jax.data.download import archives
from xmc_jax.errors import UserError, reason

# What reading a damaged archive raises.
DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, tars.Damaged)


class Package(NamedTuple):
    """A published package: its name, where `npm pack` gets it, and its SHA-512 in hexadecimals."""

    name: str
    address: str
    sha512: str


def find(
    packages: Mapping[str, Package], folders: Sequence[Path], *, flag: str = archives.FLAG
) -> dict[str, Path]:
    """The path of each package: its archive, or the folder of that name where it was unpacked.

    Archives that are in none of the folders are downloaded to the last one.

    Args:
      packages: Packages by the file name that `npm pack` gives them.
      folders: Where they may be.
      flag: See `archives.fetch`.

    Raises:
      UserError: an archive cannot be had, or is not the published one.
    """
    unpacked = {
        name: folder / name.removesuffix(".tgz")
        for name in packages
        for folder in reversed(folders)
        if (folder / name.removesuffix(".tgz") / "package").is_dir()
    }
    packed = {name: x.address for name, x in packages.items() if name not in unpacked}
    try:
        paths = archives.fetch(packed, folders, flag=flag)
    except UserError as error:
        commands = "; ".join(f"npm pack {packages[name].name}" for name in packed)
        raise UserError(f"{error}, or make them there: {commands}") from error
    for name, path in paths.items():
        verify(path, packages[name])
    return unpacked | paths


def verify(path: Path, package: Package) -> None:
    """Raises UserError if an archive cannot be read or is not the published one."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha512").hexdigest()
    except OSError as error:
        raise damaged(path, package, reason(error)) from error
    if found != package.sha512:
        raise damaged(path, package, f"SHA-512 {found[:12]}…, not {package.sha512[:12]}…")


def read(path: Path, package: Package, member: str, most: int) -> bytes:
    """At most so many bytes of a file of a package; UserError if it is damaged or not there."""
    member = f"package/{member}"
    try:
        if path.is_dir():
            return (path / member).read_bytes()
        with tarfile.open(path, "r:gz") as archive:
            return archive.extractfile(member).read(most)
    except KeyError as error:
        raise damaged(path, package, f"it has no {member}") from error
    except DAMAGE as error:
        raise damaged(path, package, f"{member}: {reason(error)}") from error


def damaged(path: Path, package: Package, why: str) -> UserError:
    """The error that names an archive and the command that makes it again."""
    return UserError(
        f"{path} is not the published package, or damaged ({why}); delete it and get it again: "
        f"npm pack {package.name}"
    )
