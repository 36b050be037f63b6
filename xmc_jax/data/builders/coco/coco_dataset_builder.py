"""TFDS builder of COCO-2014's captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xmc_jax.data.builders import captioned
from xmc_jax.data.builders.images import Location
from xmc_jax.data.download import archives
from xmc_jax.errors import UserError

_ANNOTATIONS = "annotations_trainval2014.zip"
_ADDRESS = f"http://images.cocodataset.org/annotations/{_ANNOTATIONS}"


class Builder(captioned.Builder):
    """Reads the three published archives in place; images are in the order of their ids."""

    EXPECTED = {"train": 82_783, "val": 40_504}

    def list_examples(self) -> dict[str, captioned.Split]:
        """The splits of 2014."""
        addresses = archives.COCO_IMAGES | {_ANNOTATIONS: _ADDRESS}
        paths = archives.fetch(addresses, self.archive_folders)
        return {
            split: _read_split(paths[_ANNOTATIONS], split, archives.index_coco(paths, split))
            for split in self.EXPECTED
        }

    @staticmethod
    def is_short(captions: Sequence[str]) -> bool:
        """Whether there are fewer than five captions, the least that COCO promises."""
        return len(captions) < 5


def _read_split(path: Path, split: str, locations: Mapping[str, Location]) -> captioned.Split:
    """Images with all their captions, both in the order of their ids.

    Captions of images that the file does not list are dropped. Of entries with the same id, the
    first is kept.
    """
    member = f"annotations/captions_{split}2014.json"
    annotations = archives.read_json(path, member, _ADDRESS)
    captions: dict[int, dict[int, str]] = {}
    duplicates = 0
    try:
        for entry in annotations["images"]:
            duplicates += entry["id"] in captions
            captions.setdefault(entry["id"], {})
        for entry in annotations["annotations"]:
            known = captions.get(entry["image_id"], {})
            duplicates += entry["id"] in known
            known.setdefault(entry["id"], entry["caption"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: {member} is not in COCO's format ({error!r}); download it again from "
            f"{_ADDRESS}"
        ) from error
    examples = []
    for number, texts in sorted(captions.items()):
        image_id = f"{number:012d}"
        ordered = [(str(caption_id), text) for caption_id, text in sorted(texts.items())]
        examples.append(captioned.Example(image_id, locations.get(image_id), ordered))
    return captioned.Split(examples, duplicates)
