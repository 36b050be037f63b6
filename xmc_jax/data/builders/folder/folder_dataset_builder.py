"""TFDS builder of the user's own captioned images: in a folder, listed in a file, or in shards."""

import codecs
import hashlib
import json
import os
import re
from pathlib import Path

import tensorflow_datasets as tfds

from xmc_jax.console import notice
from xmc_jax.data.builders import captioned, images
from xmc_jax.data.builders.folder import shards, texts
from xmc_jax.errors import UserError, reason

# Names that cannot be a split's: TFDS reads the first as all splits, our report has the second.
_RESERVED = "all", "source"


def name_form(source: Path, form: str = "") -> str:
    """The name of the TFDS config of a source, such as ``holidays_sq256``.

    `form` is one of `images.FORMS`, by default the first one; or a whole name with ``_``.
    """
    if "_" in form:
        return form
    named = source.parent if shards.is_pattern(source) else source
    label = re.sub(r"\W+", "-", named.expanduser().resolve().stem).strip("-_").lower()
    return f"{label or 'images'}_{form or next(iter(images.FORMS))}"


class Builder(captioned.Builder):
    """Reads ``settings.source``; images are in the order of their paths, or of the source."""

    BUILDER_CONFIGS = []  # One for each name that the user gives.

    @classmethod
    def make_config(cls, form: str) -> tfds.core.BuilderConfig:
        """The config ``NAME_FORM`` of a user's data set; raises ValueError for other names."""
        name, _, image_form = form.rpartition("_")
        if not re.fullmatch(r"\w[\w.-]*", name) or image_form not in images.FORMS:
            raise ValueError(
                f"{form!r} does not name a data set of your own: names are NAME_FORM, with one of "
                f"the forms {', '.join(images.FORMS)}, e.g. holidays_sq256"
            )
        return tfds.core.BuilderConfig(name=form, description=images.FORMS[image_form])

    def describe_source(self) -> dict:
        """The source, and its images without text and texts without image."""
        return {"path": str(self.settings.source), **self._unpaired}

    def list_examples(self) -> dict[str, captioned.Split]:
        """The splits that the source names, or else a twentieth for evaluation."""
        source = self.settings.source
        if source is None:
            name = self.info.full_name
            raise UserError(f"{name} needs --source: a folder, a JSONL file or tar archives")
        examples, splits, self._unpaired = [], {}, {}
        archives = shards.find(source)
        if source.is_dir():
            examples, self._unpaired = _read_folder(source)
        elif not archives:
            examples, splits = _read_list(source)
        if archives and not examples:
            examples, self._unpaired = shards.read_examples(archives), {}
        for name, paths in self._unpaired.items():
            if paths:
                count = f"{len(paths)} files {name.replace('_', ' ')}"
                notice(f"{source} has {count}, e.g. {paths[0]}")
        if len(examples) < 2:
            raise UserError(
                f"{source} has {len(examples)} captioned images; training and evaluation need one "
                "each. Captions are text files beside the images, with the same name (a.jpg and "
                "a.txt)"
            )
        return divide(examples, splits)


def _read_folder(folder: Path) -> tuple[list[captioned.Example], dict[str, list[str]]]:
    """The pairs of an image and a text file, and the relative paths of files without a partner."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(x.startswith(".") for x in path.relative_to(folder).parts)
    )
    texts = {path for path in paths if path.suffix == ".txt"}
    image_paths = [path for path in paths if path.suffix.lower() in images.SUFFIXES]
    examples, without_text = [], []
    for path in image_paths:
        image_id, text = path.relative_to(folder).as_posix(), path.with_suffix(".txt")
        if text in texts:
            examples.append(_example(image_id, path, _read_captions(text)))
        else:
            without_text.append(image_id)
    alone = sorted(texts - {path.with_suffix(".txt") for path in image_paths})
    without_image = [path.relative_to(folder).as_posix() for path in alone]
    return examples, {"without_text": without_text, "without_image": without_image}


def _read_captions(path: Path) -> list[str]:
    """The lines of a caption file, without translations."""
    try:
        return texts.parse_lines(path.read_bytes())
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({reason(error)}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error


def _read_list(path: Path) -> tuple[list[captioned.Example], dict[str, str]]:
    """The images of a JSONL file, and the split of each if the file names it.

    Lines with the same image become one example with all their captions.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read --source={path}: {reason(error)}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, found, split = _parse_line(json.loads(line.removeprefix(codecs.BOM_UTF8)), path)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: {reason(error)}; a line is like "
                '{"image": "a.jpg", "captions": ["a cat", "a pet"]}'
            ) from error
        captions.setdefault(name, []).extend(found)
        if splits.setdefault(name, split) != split:
            raise UserError(f"{path}, line {number}: {name} is in split {splits[name]} already")
    undivided = [name for name, split in splits.items() if split is None]
    if undivided and len(undivided) < len(splits):
        raise UserError(
            f"{path}: {len(undivided)} of {len(splits)} images have no split, e.g. {undivided[0]}; "
            "give every image a split, or none"
        )
    examples = [_example(name, path.parent / name, found) for name, found in captions.items()]
    return examples, {} if undivided else splits


def _parse_line(fields: object, path: Path) -> tuple[str, list[str], str | None]:
    """The image, captions and split of a line of the list at a path."""
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        raise ValueError('no "image"')
    folder = Path(os.path.abspath(path.parent))
    # A list from somebody else must not read files elsewhere on this machine.
    if folder not in Path(os.path.abspath(folder / fields["image"])).parents:
        raise ValueError(f"{fields['image']!r} is not below {folder}, the folder of the list")
    captions = texts.parse_fields(fields)
    split = fields.get("split")
    is_name = isinstance(split, str) and re.fullmatch(r"[A-Za-z]\w*", split)
    if split is not None and (not is_name or split in _RESERVED):
        raise ValueError(f"{split!r} cannot be the name of a split")
    return fields["image"], captions, split


def _example(image_id: str, path: Path, texts: list[str]) -> captioned.Example:
    location = images.Location(str(path)) if os.path.isfile(path) else None
    captions = [(f"{image_id}-{i}", text) for i, text in enumerate(texts)]
    return captioned.Example(image_id, location, captions)


def divide(examples: list[captioned.Example], splits: dict[str, str]) -> dict[str, captioned.Split]:
    """Divides examples by their split or, without splits, by a hash of their id.

    With the hash, an example stays in its split when others are added. Only if the hash picks none
    for evaluation, the example with the smallest hash serves. Of examples with the same id, the
    first is kept.
    """
    if not splits:
        ranks = {x.image_id: _rank(x.image_id) for x in examples}
        bound = max(0.05, min(ranks.values()))  # At least one.
        splits = {name: "val" if rank <= bound else "train" for name, rank in ranks.items()}
        if "train" not in splits.values():
            splits[max(ranks, key=ranks.get)] = "train"
    # Train comes first, then the other splits in the order of their names.
    names = sorted(set(splits.values()), key=lambda name: (name != "train", name))
    first, divided = {x.image_id: x for x in reversed(examples)}, {}
    for name in names:
        found = [x for x in examples if splits[x.image_id] == name]
        kept = [x for x in found if first[x.image_id] is x]
        divided[name] = captioned.Split(kept, len(found) - len(kept))
    return divided


def _rank(image_id: str) -> float:
    """A number from 0 to 1 that depends on the id alone."""
    digest = hashlib.sha256(image_id.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8]) / 2**64
