"""TFDS builder of Localized Narratives on COCO."""

from xmc_jax.data.builders import captioned, narrated
from xmc_jax.data.download import archives


class Builder(captioned.Builder):
    """An example for each narrative, in the order of the published files.

    The splits are those of COCO-2017. Its photographs are those of 2014 in other splits: an image
    of either split may be in either archive.
    """

    EXPECTED = {"train": 134_272, "val": 8_573}

    def list_examples(self) -> dict[str, captioned.Split]:
        """The splits of 2017, with images from the archives of 2014."""
        stems = {split: f"coco_{split}" for split in self.EXPECTED}
        files, paths = narrated.fetch(stems, archives.COCO_IMAGES, self.archive_folders)
        locations = archives.index_coco(paths, "train") | archives.index_coco(paths, "val")
        splits = {}
        for split in stems:
            examples = narrated.read_examples(files[split], f"mscoco_{split}2017", num_digits=12)
            splits[split] = captioned.Split(
                [x._replace(location=locations.get(x.image_id)) for x in examples]
            )
        return splits
