"""The two npm packages of the data set: finds and checks them, and reads images and labels."""

import gzip
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xmc_jax.data.builders import tars
from xmc_jax.data.builders.images import Location
from xmc_jax.data.download import npm
from xmc_jax.errors import UserError, reason
from xmc_jax.files import writing

IMAGES, LABELS = "lobehub-fluent-emoji-3d-1.1.0.tgz", "emojibase-data-17.0.0.tgz"


PACKAGES = {
    IMAGES: npm.Package(
        "@lobehub/fluent-emoji-3d@1.1.0",
        "https://registry.npmjs.org/@lobehub/fluent-emoji-3d/-/fluent-emoji-3d-1.1.0.tgz",
        "5a5ab69554ad4e7afc043a48274a449d328ee0bb83c71a931214ef46d0f50cb4"
        "45d267bba207914232a87a10c75ee549d9069e720979c1106feb4954006de1ee",
    ),
    LABELS: npm.Package(
        "emojibase-data@17.0.0",
        "https://registry.npmjs.org/emojibase-data/-/emojibase-data-17.0.0.tgz",
        "62f81be405a81d588757f82ad6aaf96406ab7018a9f81dbbfd92d1b142646e00"
        "0468b959fdfa1ff60f3cd8b4e9984a728413440b49b6484988b658c7b13ca08c",
    ),
}
_MAX_JSON_BYTES = 20_000_000  # The largest file of labels has 1 MB.
# Variation selectors and the end of a tag sequence, which names of files have or lack.
_IGNORED = {0xFE0F, 0xE007F}


def find(folders: Sequence[Path]) -> dict[str, Path]:
    """The path of each package, see `npm.find`."""
    return npm.find(PACKAGES, folders)


def _error(path: Path, why: str) -> UserError:
    return npm.damaged(path, _package(path), why)


def _package(path: Path) -> npm.Package:
    return PACKAGES[path.name if path.name in PACKAGES else f"{path.name}.tgz"]


def read_json(path: Path, member: str) -> list | dict:
    """A JSON file of a package; raises UserError if it is damaged or not there."""
    data = npm.read(path, _package(path), member, _MAX_JSON_BYTES)
    try:
        return json.loads(data)
    except ValueError as error:
        raise _error(path, f"{member}: {reason(error)}") from error


def index_images(path: Path, downloads: Path) -> dict[tuple[int, ...], list[Location]]:
    """Locations of the images of a package, by their code points (see `parse_codes`).

    An archive is first decompressed to the folder of downloads, since processes read from it in any
    order.

    Raises:
      UserError: the package is damaged, has no images, or cannot be decompressed.
    """
    try:
        if path.is_dir():
            files = sorted((path / "package" / "assets").glob("*.webp"))
            found = {file.stem: Location(str(file)) for file in files}
        else:
            tar = downloads / path.with_suffix(".tar").name
            _decompress(path, tar)
            with tar.open("rb") as file:
                found = {
                    Path(x.name).stem: Location(str(tar), offset=x.offset, size=x.size)
                    for x in tars.scan(file)
                    if x.name.endswith(".webp")
                }
        images: dict[tuple[int, ...], list[Location]] = {}
        for stem, location in sorted(found.items()):
            images.setdefault(parse_codes(stem), []).append(location)
    except UserError:
        raise
    except (*npm.DAMAGE, ValueError) as error:
        raise _error(path, reason(error)) from error
    if not images:
        raise _error(path, "it has no images")
    return images


def _decompress(path: Path, tar: Path) -> None:
    """Writes what a gzip file holds, in one move: another build may be reading an older one."""
    part = tar.with_name(f".{tar.name}.{os.getpid()}")
    with writing(tar, then="run the same command again"):
        tar.parent.mkdir(parents=True, exist_ok=True)
        try:
            with gzip.open(path) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file)
            part.replace(tar)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _error(path, reason(error)) from error
        finally:
            part.unlink(missing_ok=True)


def parse_codes(text: str) -> tuple[int, ...]:
    """The code points of an emoji from its name, such as ``1F469-200D-1F692``.

    Variation selectors, leading zeros, case and the sign between two numbers make no difference.
    """
    codes = (int(part, 16) for part in text.replace("_", "-").split("-"))
    return tuple(code for code in codes if code not in _IGNORED)


class Emoji(NamedTuple):
    """What the labels of a locale say of an emoji.

    Attributes:
      codes: Its code points.
      label: Its name, with that of the skin tone.
      group: Its category, such as "food & drink".
      subgroup: Number of a smaller category.
      tags: Keywords; those of the emoji without skin tone.
    """

    codes: tuple[int, ...]
    label: str
    group: str
    subgroup: int
    tags: tuple[str, ...]


def read_emoji(path: Path, locale: str) -> dict[tuple[int, ...], Emoji]:
    """All emoji of a locale, with their skin tones, in the order of Unicode.

    Raises:
      UserError: the package is damaged.
    """
    entries, messages = (read_json(path, f"{locale}/{x}.json") for x in ("data", "messages"))
    try:
        groups = {x["order"]: x["message"] for x in messages["groups"]}
        found = [
            (x["order"], _make_emoji(x, base, groups))
            for base in entries
            if "order" in base  # Letters for flags and the like have none.
            for x in [base, *base.get("skins", [])]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _error(path, f"{locale}/data.json: {error!r}") from error
    return {emoji.codes: emoji for _, emoji in sorted(found)}


def _make_emoji(fields: Mapping, base: Mapping, groups: Mapping[int, str]) -> Emoji:
    codes, tags = parse_codes(fields["hexcode"]), tuple(base.get("tags", ()))
    return Emoji(codes, fields["label"], groups[base["group"]], base["subgroup"], tags)
