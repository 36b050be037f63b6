"""The features that all data sets share, and the report of a build."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

REPORT = "build_report.json"


def features(encoding: str | None) -> tfds.features.FeaturesDict:
    """The features of a data set; images are ``"jpeg"``, ``"png"``, or either if None."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
            "image/id": tfds.features.Text(),
            "image/height": np.int64,
            "image/width": np.int64,
            "captions": tfds.features.Sequence(
                {"text": tfds.features.Text(), "id": tfds.features.Text()}
            ),
        }
    )


def make_record(
    image_id: str, image: bytes, size: tuple[int, int], captions: Iterable[tuple[str, str]]
) -> dict:
    """One example: a stored image, its height and width, and ``(id, text)`` of each caption."""
    return {
        "image": image,
        "image/id": image_id,
        "image/height": size[0],
        "image/width": size[1],
        "captions": [{"text": text, "id": caption_id} for caption_id, text in captions],
    }


@dataclasses.dataclass
class Tally:
    """Counts of the examples of a split.

    Attributes:
      seen: Examples in the source.
      kept: Examples in the data set.
      missing: Lost examples: the source has no image.
      undecodable: Lost examples: the image file is truncated, damaged or not an image.
      captionless: Lost examples: every caption is empty.
      gray: Kept examples, published in gray.
      cmyk: Kept examples, published in CMYK.
      rotated: Kept examples, turned by the EXIF orientation or a published rotation.
      short_captions: Kept examples with fewer or shorter captions than the data set promises.
      empty_captions: Captions that were dropped because they are empty.
      duplicates: Entries of the source that were dropped because of a repeated id.
      expected: Examples of the published split; None if the data set is not a published one.
    """

    seen: int = 0
    kept: int = 0
    missing: int = 0
    undecodable: int = 0
    captionless: int = 0
    gray: int = 0
    cmyk: int = 0
    rotated: int = 0
    short_captions: int = 0
    empty_captions: int = 0
    duplicates: int = 0
    expected: int | None = None

    @property
    def lost(self) -> int:
        """Examples that are in the source and not in the data set."""
        return self.missing + self.undecodable + self.captionless

    def add(self, counts: Mapping[str, int]) -> None:
        """Adds numbers to the counts with these names."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + int(count))

    def fields(self) -> dict[str, int | bool]:
        """The fields of a split in ``build_report.json``."""
        fields = dataclasses.asdict(self)
        if self.expected is None:
            del fields["expected"]
        else:
            fields["complete"] = self.seen == self.expected and not self.lost
        return fields


def write_report(
    folder: str | os.PathLike, tallies: Mapping[str, Tally], source: Mapping | None = None
) -> None:
    """Writes ``build_report.json``: the tally of each split, and the source of the build."""
    report = {split: tally.fields() for split, tally in tallies.items()}
    if source:
        report["source"] = source
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    # Names of files that are not UTF-8 hold surrogates; JSON reads them back from their escapes.
    (epath.Path(folder) / REPORT).write_bytes(text.encode(errors="backslashreplace"))


def read_report(folder: str | os.PathLike) -> dict[str, dict]:
    """Reads what `write_report` wrote; empty if another tool built the data set."""
    path = epath.Path(folder) / REPORT
    return json.loads(path.read_text()) if path.exists() else {}


def summarise(report: Mapping[str, dict]) -> list[str]:
    """A line for each split of a report: what was kept and lost, and whether it is complete."""
    lines = []
    for split, fields in report.items():
        if split == "source":
            continue
        counts = [
            f"{count} {name.replace('_', ' ')}"
            for name, count in fields.items()
            if count and name not in ("kept", "expected", "complete")
        ]
        line = f"{split}: {fields['kept']} kept of {', '.join(counts)}"
        if fields.get("complete"):
            line += "; complete"
        elif "complete" in fields:
            line += f"; NOT the whole published split, which has {fields['expected']}"
        lines.append(line)
    return lines
