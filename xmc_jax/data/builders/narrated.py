"""Shared by the builders of Localized Narratives: finds their files and reads examples."""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xmc_jax.data.builders.captioned import Example
from xmc_jax.data.download import archives, narratives
from xmc_jax.errors import UserError


def fetch(
    stems: Mapping[str, str], others: Mapping[str, str], folders: Sequence[Path]
) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """Finds or downloads the narratives of each split and the other files of a data set.

    Args:
      stems: First part of the file names of each split, e.g. ``{"train": "coco_train"}``.
      others: Addresses of the other files, by name.
      folders: As in `archives.fetch`, which also raises.

    Returns:
      The files of each split, in their order; and the other files by name.
    """
    full = {split: find_full_files(folders[0], stem) for split, stem in stems.items()}
    captions = {split: f"{stems[split]}_captions.jsonl" for split in stems if not full[split]}
    addresses = {name: narratives.ADDRESS + name for name in captions.values()}
    paths = archives.fetch(others | addresses, folders)
    files = full | {split: [paths[name]] for split, name in captions.items()}
    return files, {name: paths[name] for name in others}


def read_examples(paths: Iterable[Path], dataset_id: str, num_digits: int) -> list[Example]:
    """An example for each narrative, in the order of the files, without locations of images.

    Args:
      paths: The files of a split.
      dataset_id: Regular expression for the name of the split in its files.
      num_digits: Digits of an image id; COCO's narratives omit leading zeros.

    Raises:
      UserError: a file is damaged, or belongs to another split.
    """
    numbers, examples = collections.Counter(), []
    for path in paths:
        for narrative in narratives.read_narratives(path):
            if not re.fullmatch(dataset_id, narrative.dataset_id):
                raise UserError(
                    f"{path} has narratives of {narrative.dataset_id}, not of {dataset_id}; "
                    f"download it again from {narratives.ADDRESS}"
                )
            image_id = narrative.image_id.zfill(num_digits)
            caption_id = f"{image_id}-{numbers[image_id]}"
            numbers[image_id] += 1
            examples.append(Example(image_id, None, [(caption_id, narrative.caption)]))
    return examples


def find_full_files(folder: Path, name: str) -> list[Path]:
    """The full files of a split, with traces, if the user has those and not the captions alone.

    `name` is the first part of the file names, e.g. ``"coco_train"``. Returns all parts in their
    order; none if the file of captions is there, or neither is. Raises UserError if only some of
    the parts are there.
    """
    if (folder / f"{name}_captions.jsonl").exists():
        return []
    whole = folder / f"{name}_localized_narratives.jsonl"
    if whole.exists():
        return [whole]
    found = sorted(folder.glob(f"{name}_localized_narratives-?????-of-?????.jsonl"))
    if not found:
        return []
    parts = [re.search(r"-(\d+)-of-(\d+)\.jsonl$", path.name) for path in found]
    count = int(parts[0][2])
    here = {int(part[1]) for part in parts}
    if absent := [str(i) for i in range(count) if i not in here]:
        raise UserError(
            f"{folder} lacks part {', '.join(absent)} of the {count} of {name}_localized_narratives"
            f"; get it from {narratives.ADDRESS}, or {name}_captions.jsonl instead of them all"
        )
    return found
