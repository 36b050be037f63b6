"""TFDS builder of Localized Narratives on Open Images."""

import csv
import io
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from etils import epath

from xmc_jax.data.builders import captioned, narrated
from xmc_jax.data.builders.images import Location, convert_on_arrival
from xmc_jax.data.download import open_images
from xmc_jax.data.download.http import NOT_AN_IMAGE
from xmc_jax.data.download.open_images import RemoteImage
from xmc_jax.errors import UserError, reason
from xmc_jax.files import is_remote

_LISTS = "https://storage.googleapis.com/openimages/2018_04"


class _Source(NamedTuple):
    """Names of a split.

    Attributes:
      part: In Open Images.
      stem: First part of the names of its files of narratives.
      list_file: File name of its list of images.
    """

    part: str
    stem: str
    list_file: str


_SOURCES = {
    "train": _Source("train", "open_images_train_v6", "train-images-boxable-with-rotation.csv"),
    "val": _Source("validation", "open_images_validation", "validation-images-with-rotation.csv"),
    "test": _Source("test", "open_images_test", "test-images-with-rotation.csv"),
}


class Builder(captioned.Builder):
    """An example for each narrative, in the order of the published files.

    Images come from the user's folder if they are there, otherwise from the public bucket: on Beam
    to the worker that converts them, without Beam to ``downloads``, where they are kept.
    """

    EXPECTED = {"train": 507_444, "val": 41_691, "test": 126_020}

    def describe_source(self) -> dict:
        """The number of images that are in no list, so that their rotation is unknown."""
        return {"unlisted": self._num_unlisted}

    def list_examples(self) -> dict[str, captioned.Split]:
        """The splits of Open Images V6."""
        stems = {split: source.stem for split, source in _SOURCES.items()}
        addresses = {x.list_file: f"{_LISTS}/{x.part}/{x.list_file}" for x in _SOURCES.values()}
        files, lists = narrated.fetch(stems, addresses, self.archive_folders)
        examples = {
            # The published spelling of this name could not be looked up.
            split: narrated.read_examples(files[split], rf"(?i)open_?images\w*{split}\w*", 16)
            for split in _SOURCES
        }
        images = {
            x.image_id: RemoteImage(source.part, x.image_id)
            for split, source in _SOURCES.items()
            for x in examples[split]
        }
        rotations = {}
        for name, address in addresses.items():
            rotations |= read_rotations(lists[name], images, address)
        self._num_unlisted = len(images) - len(rotations)
        locations = self._locate(images, rotations)
        return {
            split: captioned.Split([x._replace(location=locations[x.image_id]) for x in listed])
            for split, listed in examples.items()
        }

    def _locate(
        self, images: Mapping[str, RemoteImage], rotations: Mapping[str, int]
    ) -> dict[str, Location | str | None]:
        """Downloads the images that are not in the user's folder; returns where each image is."""
        paths = find_images(self.archive_folders[0], images)
        absent = [image for image in images.values() if image.id not in paths]
        lost = {}
        if self.settings.beam_runner:
            mirror = self.settings.mirror.rstrip("/")
            paths |= {image.id: f"{mirror}/{image.split}/{image.id}.jpg" for image in absent}
        elif absent:
            folder = self.downloads / "open_images" / self.form
            self._download(absent, folder, rotations)
            paths |= {image.id: str(open_images.path_of(folder, image)) for image in absent}
            reasons = open_images.read_missing(folder)
            for image in set(absent) & reasons.keys():
                lost[image.id] = NOT_AN_IMAGE if reasons[image] == NOT_AN_IMAGE else None
        located = {
            image_id: Location(path, rotation=rotations.get(image_id, 0))
            for image_id, path in paths.items()
        }
        return located | lost

    def _download(
        self, images: list[RemoteImage], folder: Path, rotations: Mapping[str, int]
    ) -> None:
        def convert(data: bytes, image: RemoteImage) -> bytes:
            return convert_on_arrival(data, self.form, rotations.get(image.id, 0))

        try:
            open_images.download(images, folder, convert=convert, base_url=self.settings.mirror)
        except UserError as error:
            count = sum(not open_images.path_of(folder, image).exists() for image in images)
            place = self.archive_folders[0] / "open_images"
            raise UserError(
                f"{error}; {count} images of {len(images)} are still to come; they can also be put "
                f"as ID.jpg into {place} or folders in it"
            ) from error


def read_rotations(path: Path, wanted: Collection[str], address: str) -> dict[str, int]:
    """Reads by how many degrees counter-clockwise the images of a list must be turned.

    The published numbers are "the degrees (counterclockwise) that the image and boxes should be
    rotated", https://storage.googleapis.com/openimages/web/2018-05-17-rotation-information.html.
    They restore the EXIF orientation that Flickr's resized files have lost, so they do not apply to
    files that have one. Empty or ``nan`` means unknown, read as 0.

    Args:
      path: A list of images, with columns ``ImageID`` and ``Rotation``.
      wanted: Ids of the images of interest.
      address: Where the list is published, for the error if the file is not such a list.
    """
    with epath.Path(path).open("rb") as file:
        # Authors and titles can hold any bytes; only their quotes matter.
        rows = csv.reader(io.TextIOWrapper(file, "utf-8", errors="replace", newline=""))
        rotations = {}
        try:
            columns = next(rows, [])
            at_id, at_rotation = columns.index("ImageID"), columns.index("Rotation")
            for row in rows:
                if row and row[at_id] in wanted:
                    degrees = float(row[at_rotation] or "nan")
                    rotations[row[at_id]] = 0 if math.isnan(degrees) else int(degrees) % 360
                    if rotations[row[at_id]] % 90:
                        raise ValueError(f"{degrees} degrees")
        except (csv.Error, ValueError, IndexError) as error:
            raise UserError(
                f"{path}, line {rows.line_num} is not a line of a list of images with rotations "
                f"({reason(error)}); download it again from {address}"
            ) from error
    return rotations


def find_images(folder: Path, wanted: Collection[str]) -> dict[str, str]:
    """Paths of the wanted images by id: ``ID.jpg`` anywhere below ``open_images`` or a split.

    The folder of these may be local or in a bucket.
    """
    found = {}
    for name in ("open_images", *open_images.SPLITS):
        path = os.path.join(folder, name)
        # Large collections are often behind symbolic links.
        walk = epath.Path(path).walk() if is_remote(path) else os.walk(path, followlinks=True)
        for parent, _, files in walk:
            for file in sorted(files):
                image_id, suffix = os.path.splitext(file)
                if suffix == ".jpg" and image_id in wanted:
                    found.setdefault(image_id, os.path.join(parent, file))
    return found
