"""Captioned images in tar archives, as WebDataset reads them and img2dataset writes them."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from xmc_jax.console import notice, with_progress
from xmc_jax.data.builders import captioned, images, tars
from xmc_jax.data.builders.folder import texts
from xmc_jax.errors import UserError, reason

_MAX_TEXT_BYTES = 1_000_000
_COMPRESSED = ".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"
_Files = dict[str, bytes | images.Location]  # Of an example, by what follows the first dot.


def is_pattern(source: Path) -> bool:
    """Whether the last part of a path stands for many files."""
    return any(sign in source.name for sign in "*?[") and not os.path.exists(source)


def find(source: Path) -> list[Path]:
    """The archives of a source: those of a pattern or a folder, or the one that it names itself.

    Raises UserError if a pattern matches none, a file is compressed, or a folder cannot be read.
    """
    try:
        return _find(source)
    except OSError as error:
        raise UserError(f"cannot read --source={source}: {reason(error)}") from error


def _find(source: Path) -> list[Path]:
    if source.suffix in _COMPRESSED:
        raise UserError(f"--source={source} is compressed, and is read in place; unpack it first")
    if is_pattern(source):
        paths = sorted(x for x in source.parent.glob(source.name) if x.suffix == ".tar")
        if not paths:
            raise UserError(f"--source={source} matches no .tar archive")
        return paths
    if source.is_dir():
        return sorted(source.glob("*.tar"))
    return [source] if source.suffix == ".tar" else []


def read_examples(paths: Sequence[Path]) -> list[captioned.Example]:
    """The examples of archives, in the order of the archives and their files.

    Files of an archive whose names differ after the first dot alone are an example. Its captions
    are the lines of ``.txt`` or else the field of ``.json``; there are none if the file is absent
    or damaged. Images stay in the archives. An archive that is cut off gives an example that cannot
    be decoded, besides those before.

    Raises UserError if an archive cannot be read.
    """
    return [
        example
        for path in with_progress(paths, len(paths), name="index", unit="archives")
        for example in _read_archive(path)
    ]


def _read_archive(path: Path) -> Iterator[captioned.Example]:
    groups, why = [], ""
    try:
        with path.open("rb") as file:
            groups.extend(_group_files(file, str(path)))  # Keeps what came before an error.
    except tars.Damaged as error:
        why = str(error)
        notice(f"{path} is damaged ({why}); its examples before that are used")
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    for key, parts in groups:
        location = next((x for x in parts.values() if isinstance(x, images.Location)), None)
        captions = [(f"{key}-{i}", text) for i, text in enumerate(_read_captions(parts))]
        if location or captions:
            yield captioned.Example(key, location, captions)
    if why:
        yield captioned.Example(path.name, why, [])


def _group_files(file: BinaryIO, path: str) -> Iterator[tuple[str, _Files]]:
    """The key of each example and its files by suffix, which are still added: first read all."""
    latest: dict[str, _Files] = {}
    for member in tars.scan(file):
        folder, slash, name = member.name.rpartition("/")
        stem, _, kind = name.partition(".")
        key, kind = f"{folder}{slash}{stem}", kind.lower()
        if not stem or f".{kind}" not in (*images.SUFFIXES, ".txt", ".json"):
            continue
        if key not in latest or kind in latest[key]:  # The same name again begins another example.
            latest[key] = {}
            yield key, latest[key]
        if kind in ("txt", "json"):
            file.seek(member.offset)
            latest[key][kind] = file.read(min(member.size, _MAX_TEXT_BYTES))
        else:
            latest[key][kind] = images.Location(path, offset=member.offset, size=member.size)


def _read_captions(parts: dict) -> list[str]:
    """The captions of an example; none if their file is absent or damaged."""
    try:
        if "txt" in parts:
            return texts.parse_lines(parts["txt"])
        return texts.parse_fields(json.loads(parts["json"]))
    except (KeyError, ValueError, RecursionError):
        return []
