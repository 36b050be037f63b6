"""Archives in the formats they are published in: found, downloaded, and read in place."""

import errno
import functools
import hashlib
import http
import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3

from xmc_jax.console import Progress
from xmc_jax.data.builders.images import Location, read_member
from xmc_jax.data.download.http import make_session
from xmc_jax.errors import UserError, reason
from xmc_jax.files import only_one

_MB = 1_000_000
_MAX_JSON_BYTES = 1000 * _MB  # Captions of COCO-2014's training split have 66 MB.

FLAG = "the folder of --manual_dir"

COCO_IMAGES = {
    name: f"http://images.cocodataset.org/zips/{name}" for name in ("train2014.zip", "val2014.zip")
}


def fetch(
    addresses: Mapping[str, str], folders: Sequence[Path], *, flag: str = FLAG
) -> dict[str, Path]:
    """Finds archives on this machine, and downloads those that are not there.

    Args:
      addresses: The address of each file name.
      folders: Where files may be; downloads go to the last one.
      flag: What the error message says after "or", of the flag that names archives elsewhere.

    Returns:
      The path of each file name.

    Raises:
      UserError: an archive is not there and cannot be downloaded.
    """
    paths = {}
    for name in addresses:
        if path := next((f / name for f in folders if (f / name).exists()), None):
            paths[name] = path
            print(f"using {path}", file=sys.stderr)
    absent = {name: address for name, address in addresses.items() if name not in paths}
    for name, address in absent.items():
        try:
            paths[name] = _download(address, folders[-1] / name)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            rest = {name: address for name, address in absent.items() if name not in paths}
            raise UserError(
                f"cannot download {address} ({reason(error)}); run the same command to continue, "
                f"or put {' and '.join(rest)} into {folders[-1]} (or {flag}), from "
                f"{' and '.join(rest.values())}"
            ) from error
    return paths


def _download(address: str, path: Path) -> Path:
    """Downloads a file; continues an earlier attempt, and tries again as long as bytes come."""
    part = path.with_name(f"{path.name}.part")
    with only_one(path.parent, f"downloading {path.name} to", lock_file=f".{path.name}.lock"):
        while True:
            before = _size(part)
            try:
                _download_rest(address, part)
                _check_published(address, part)
                return part.replace(path)
            except (OSError, urllib3.exceptions.HTTPError) as error:
                full = isinstance(error, OSError) and error.errno == errno.ENOSPC
                if full or _size(part) <= before:
                    raise


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download_rest(address: str, part: Path) -> None:
    """Appends to a file what is missing of it; on an error, what came is kept."""
    offset = _size(part)
    with (
        make_session() as session,
        session.get(
            # The timeout is of seconds without a byte.
            address,
            headers={"Range": f"bytes={offset}-"},
            stream=True,
            timeout=30,
        ) as response,
    ):
        if response.status_code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if response.headers.get("Content-Range", "").rpartition("/")[2] == str(offset):
                return  # All of it is there.
            part.unlink(missing_ok=True)  # Of another file, longer than this one: begin again.
        response.raise_for_status()
        if "Content-Length" not in response.headers:
            raise OSError("the server does not say how long the file is")
        with part.open("ab") as file:
            if offset and response.status_code != http.HTTPStatus.PARTIAL_CONTENT:
                offset = file.truncate(0)  # The server cannot continue and sends all of it again.
            done, total = offset, offset + int(response.headers["Content-Length"])
            progress = Progress(total // _MB, name=f"downloading {part.stem}", unit="MB")
            # urllib3 compares the body with Content-Length.
            while chunk := response.raw.read1(_MB, decode_content=False):
                done += file.write(chunk)
                progress.tell(done // _MB, num_before=offset // _MB)
            file.flush()
            os.fsync(file.fileno())


@functools.cache
def _checksums() -> dict[str, str]:
    """Published SHA-256 of the files at some addresses, from a list in TFDS's format."""
    path = Path(__file__).parents[1] / "builders" / "coco" / "checksums.tsv"
    lines = path.read_text().splitlines()
    return {address: sha256 for address, _, sha256, _ in (line.split("\t") for line in lines)}


def _check_published(address: str, part: Path) -> None:
    """Deletes a download that is not the published file, and raises UserError."""
    if expected := _checksums().get(address):
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            part.unlink()
            raise UserError(
                f"the file from {address} is not the published one (SHA-256 {found[:12]}…, not "
                f"{expected[:12]}…) and was deleted; run the same command again"
            )


def index_coco(paths: Mapping[str, Path], split: str) -> dict[str, Location]:
    """Locations of the images in ``train2014.zip`` or ``val2014.zip``, by 12-digit id.

    `split` is ``"train"`` or ``"val"``. Raises UserError if the file is not a whole zip archive, or
    has no such images.
    """
    name = f"{split}2014.zip"
    path, address = paths[name], COCO_IMAGES[name]
    pattern = rf"{split}2014/COCO_{split}2014_(\d{{12}})\.jpg"
    try:
        with zipfile.ZipFile(path) as archive:  # It stays packed.
            matches = [re.fullmatch(pattern, name) for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise _damage(path, address, error) from error
    found = {match[1]: Location(str(path), match[0]) for match in matches if match}
    if not found:
        raise UserError(f"{path} has no {pattern}; it is another archive than {address}")
    return found


def read_json(path: Path, member: str, address: str) -> Any:
    """Reads a JSON file in a zip archive; raises UserError if it is damaged or not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(read_member(archive, member, _MAX_JSON_BYTES))
    except KeyError as error:
        raise UserError(f"{path} has no {member}; it is another archive than {address}") from error
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _damage(path, address, error) from error


def _damage(path: Path, address: str, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or incomplete ({reason(error)}); delete it, and the same command "
        f"downloads it again from {address}"
    )
