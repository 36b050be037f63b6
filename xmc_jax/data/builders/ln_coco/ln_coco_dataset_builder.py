"""TFDS builder of Localized Narratives on COCO."""

import collections
import re
from pathlib import Path

from xmc_jax.data import narratives
from xmc_jax.data.builders import archives, captioned
from xmc_jax.errors import UserError


class Builder(captioned.Builder):
    """An example for each narrative, in the order of the published files.

    The split is that of COCO-2017. Its photographs are those of 2014, divided otherwise: a picture
    of either split may lie in either archive.
    """

    BUILDER_CONFIGS = captioned.make_configs()
    EXPECTED = {"train": 134_272, "val": 8_573}

    def list_examples(self) -> dict[str, captioned.Split]:
        """The splits of 2017, with pictures from the archives of 2014."""
        full = {
            split: find_full_files(self.archive_folders[0], f"coco_{split}")
            for split in self.EXPECTED
        }
        captions = {f"coco_{split}_captions.jsonl": split for split in full if not full[split]}
        addresses = {name: narratives.ADDRESS + name for name in captions}
        paths = archives.fetch(archives.COCO_PICTURES | addresses, self.archive_folders)
        files = full | {split: [paths[name]] for name, split in captions.items()}
        locations = archives.index_coco(paths, "train") | archives.index_coco(paths, "val")

        splits = {}
        for split in self.EXPECTED:
            numbers, examples = collections.Counter(), []
            for path in files[split]:
                for narrative in narratives.read_narratives(path):
                    if narrative.dataset_id != f"mscoco_{split}2017":
                        raise UserError(
                            f"{path} holds narratives of {narrative.dataset_id}, not of "
                            f"mscoco_{split}2017; download it again from {narratives.ADDRESS}"
                        )
                    image_id = narrative.image_id.zfill(12)
                    caption_id = f"{image_id}-{numbers[image_id]}"
                    numbers[image_id] += 1
                    caption = (caption_id, narrative.caption)
                    location = locations.get(image_id)
                    examples.append(captioned.Example(image_id, location, [caption]))
            splits[split] = captioned.Split(examples)
        return splits


def find_full_files(folder: Path, name: str) -> list[Path]:
    """The full files of a split, with traces, where the user brought them instead of captions.

    Args:
      folder: Where the user's archives are.
      name: Of data set and split as the files have it, e.g. ``"coco_train"``.

    Returns:
      All parts in their order; none where the file of captions is there, or neither is.

    Raises:
      UserError: some parts are there, and others are not.
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
