"""Archives in the formats they are published in: found, downloaded, and read in place."""

import json
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from xmc_jax.data.builders.pictures import Location
from xmc_jax.errors import UserError

COCO_PICTURES = {
    name: f"http://images.cocodataset.org/zips/{name}" for name in ("train2014.zip", "val2014.zip")
}


def fetch(
    dl_manager: tfds.download.DownloadManager, addresses: Mapping[str, str], manual_dir: Path
) -> dict[str, Path]:
    """Where archives are on this machine: in the manual folder, or else downloaded.

    Args:
      dl_manager: Downloads, and remembers what it has.
      addresses: The address of each file name.
      manual_dir: Folder of archives that the user brought.

    Raises:
      UserError: an archive is neither there nor to be had.
    """
    paths = {name: manual_dir / name for name in addresses if (manual_dir / name).exists()}
    for path in paths.values():
        print(f"using {path}", file=sys.stderr)
    absent = {name: address for name, address in addresses.items() if name not in paths}
    if not absent:
        return paths
    try:
        downloaded = dl_manager.download(absent)
    except Exception as error:  # Of the network, of HTTP, of checksums: all are mended alike.
        raise UserError(
            f"cannot download {', '.join(absent.values())} ({_first_line(error)}); put "
            f"{', '.join(absent)} into {manual_dir}, or name the folder they are in with "
            "--manual_dir"
        ) from error
    return paths | {name: Path(path) for name, path in downloaded.items()}


def index_pictures(path: Path, pattern: str, address: str) -> dict[str, Location]:
    """Where each picture is in a zip archive, which stays packed.

    Args:
      path: The archive.
      pattern: A regular expression that a picture's name matches wholly; its group is the id.
      address: Where the archive comes from.

    Raises:
      UserError: it is no whole zip archive, or holds no such picture.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            matches = [re.fullmatch(pattern, name) for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise _not_whole(path, address, error) from error
    found = {match[1]: Location(str(path), match[0]) for match in matches if match}
    if not found:
        raise UserError(f"{path} holds no {pattern}; it is another archive than {address}")
    return found


def index_coco(paths: Mapping[str, Path], split: str) -> dict[str, Location]:
    """Where the pictures of ``train2014.zip`` or ``val2014.zip`` are, by 12-digit id.

    Raises:
      UserError: see `index_pictures`.
    """
    name = f"{split}2014.zip"
    pattern = rf"{split}2014/COCO_{split}2014_(\d{{12}})\.jpg"
    return index_pictures(paths[name], pattern, COCO_PICTURES[name])


def read_json(path: Path, member: str, address: str) -> Any:
    """A JSON file in a zip archive.

    Raises:
      UserError: the archive is damaged, or holds no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(member))
    except KeyError as error:
        raise UserError(
            f"{path} holds no {member}; it is another archive than {address}"
        ) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _not_whole(path, address, error) from error


def _not_whole(path: Path, address: str, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or cut off ({_first_line(error)}); delete it and download it again "
        f"from {address}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
