"""What every data set holds, and what every build reports."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping

import tensorflow_datasets as tfds
from etils import epath

from xmc_jax.data.cpu_tensorflow import tf

REPORT = "build_report.json"


def features(encoding: str | None) -> tfds.features.FeaturesDict:
    """The features of a data set.

    Args:
      encoding: Of the stored pictures: ``"jpeg"``, ``"png"``, or None for either.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
            "image/id": tfds.features.Text(),
            "image/height": tf.int64,
            "image/width": tf.int64,
            "captions": tfds.features.Sequence(
                {"text": tfds.features.Text(), "id": tfds.features.Text()}
            ),
        }
    )


def make_record(
    *, image: bytes, image_id: str, height: int, width: int, captions: Iterable[tuple[str, str]]
) -> dict:
    """One example: a stored picture, its size in pixels, and ``(id, text)`` of each caption."""
    return {
        "image": image,
        "image/id": image_id,
        "image/height": height,
        "image/width": width,
        "captions": [{"text": text, "id": caption_id} for caption_id, text in captions],
    }


@dataclasses.dataclass
class Tally:
    """What became of the examples of a split.

    Attributes:
      seen: Examples in the source.
      kept: Examples in the data set.
      missing: Not kept: the source has no picture.
      undecodable: Not kept: the picture is truncated, damaged or none at all.
      captionless: Not kept: every caption is empty.
      gray: Kept, published in gray.
      cmyk: Kept, published in CMYK.
      rotated: Kept, turned by the EXIF orientation or a published rotation.
      short_captions: Kept, with fewer or shorter captions than the data set promises.
      empty_captions: Captions dropped because they are empty.
      duplicates: Entries of the source dropped because their id was there before.
      expected: Examples of the published data set; None if it is not a published one.
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
        """Adds to the counts that are named."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + int(count))

    def fields(self) -> dict[str, int | bool]:
        """As `build_report.json` has it."""
        fields = dataclasses.asdict(self)
        if self.expected is None:
            del fields["expected"]
        else:
            fields["complete"] = self.seen == self.expected and not self.lost
        return fields


def write_report(
    folder: str | os.PathLike, tallies: Mapping[str, Tally], source: Mapping | None = None
) -> None:
    """Writes ``build_report.json``: a tally for each split, and what the build was made from."""
    report = {split: tally.fields() for split, tally in tallies.items()}
    if source:
        report["source"] = source
    (epath.Path(folder) / REPORT).write_text(
        json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    )


def read_report(folder: str | os.PathLike) -> dict[str, dict]:
    """What `write_report` wrote; nothing if another tool built the data set."""
    path = epath.Path(folder) / REPORT
    return json.loads(path.read_text()) if path.exists() else {}


def summarise(report: Mapping[str, dict]) -> list[str]:
    """A line for each split of a report: what was kept, lost, and whether it is all there is."""
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
