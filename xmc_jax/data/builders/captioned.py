"""What the builders of captioned pictures share: from lists of examples to records and a report."""

import abc
import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import tensorflow_datasets as tfds

from xmc_jax.data.builders import pictures, schema
from xmc_jax.errors import UserError
from xmc_jax.progress import with_progress

_IDS_SHOWN = 3


class Settings(NamedTuple):
    """What a build is told that changes nothing in its records.

    Attributes:
      source: The user's own data, for the builder `folder`.
      manual_dir: Folder of archives that the user brought; ``downloads/manual`` beside the data
        sets if None.
      max_lost: Share of a split that may be missing, undecodable or without caption.
      num_processes: Processes that convert pictures; one for each CPU core if 0.
    """

    source: Path | None = None
    manual_dir: Path | None = None
    max_lost: float = 0.001
    num_processes: int = 0


class Example(NamedTuple):
    """A captioned picture before it is read.

    Attributes:
      image_id: Which picture of its source it is.
      location: Where the picture is; None if it is missing.
      captions: ``(id, text)`` of each, as published.
    """

    image_id: str
    location: pictures.Location | None
    captions: Sequence[tuple[str, str]]


class Split(NamedTuple):
    """A split before it is built: its examples, and how many more were dropped as duplicates."""

    examples: Sequence[Example]
    duplicates: int = 0


def make_configs() -> list[tfds.core.BuilderConfig]:
    """A TFDS config for each form of pictures."""
    return [
        tfds.core.BuilderConfig(name=name, description=description)
        for name, description in pictures.FORMS.items()
    ]


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds a data set from lists of examples; a data set says where its examples are.

    Record i is example i of its split, less what was lost: the reader shuffles globally.

    Attributes:
      EXPECTED: Examples of each published split.
      settings: What the next build is told.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    EXPECTED: ClassVar[dict[str, int]] = {}
    settings = Settings()

    @abc.abstractmethod
    def list_examples(self) -> dict[str, Split]:
        """The splits, in the order of their records.

        Raises:
          UserError: the source is missing or damaged.
        """

    @classmethod
    def make_config(cls, form: str) -> tfds.core.BuilderConfig:
        """The TFDS config of a name.

        Raises:
          ValueError: there is none.
        """
        if form not in cls.builder_configs:
            raise ValueError(f"no form {form!r}; there are {', '.join(cls.builder_configs)}")
        return cls.builder_configs[form]

    @property
    def form(self) -> str:
        """Of the pictures, one of `pictures.FORMS`; configs may have names before it."""
        return self.builder_config.name.rpartition("_")[2]

    @property
    def archive_folders(self) -> list[Path]:
        """Where archives may lie; downloads go to the last."""
        downloads = Path(self.data_dir_root) / "downloads" / "manual"
        return [self.settings.manual_dir or downloads, downloads]

    def is_short(self, captions: Sequence[str]) -> bool:
        """Whether an example counts into ``short_captions``: one has fewer than three words."""
        return any(len(text.split()) < 3 for text in captions)

    def describe_source(self) -> dict:
        """What the report says of the source, besides counts."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(None if self.form == "original" else "jpeg"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        # TFDS's own cannot go on with a download that broke off.
        del dl_manager
        splits = self.list_examples()
        # Progress has lines of its own; a bar over them would be a mess.
        tfds.disable_progress_bar()
        self._tallies: dict[str, schema.Tally] = {}
        for name, split in splits.items():
            missing = [x.image_id for x in split.examples if x.location is None]
            # Known beforehand, unlike damage: it need not cost hours.
            self._check_lost(
                name, schema.Tally(seen=len(split.examples), missing=len(missing)), missing
            )
        return {name: self._generate_examples(name, split) for name, split in splits.items()}

    def _generate_examples(self, name: str, split: Split) -> Iterator[tuple[int, dict]]:
        tally = self._tallies[name] = schema.Tally(
            seen=len(split.examples),
            duplicates=split.duplicates,
            expected=self.EXPECTED.get(name),
        )
        lost = []
        for index, (example, picture) in enumerate(self._convert(name, split.examples)):
            record, counts = judge(example, picture, self.is_short)
            tally.add(counts)
            if record:
                yield index, record
            else:
                reason = f" ({picture})" if isinstance(picture, str) else ""
                lost.append(f"{example.image_id}{reason}")
        if line := self._check_lost(name, tally, lost):
            print(f"notice: {line}", file=sys.stderr)
        if not tally.kept:
            raise UserError(f"split {name} of {self.info.full_name} has no example")
        schema.write_report(self.data_path, self._tallies, self.describe_source())

    def _convert(
        self, name: str, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, pictures.Picture | str | None]]:
        """Each example with its picture: None if it is missing, a reason if it is undecodable."""
        converted = pictures.convert_all(
            [example.location for example in examples if example.location],
            self.form,
            num_processes=self.settings.num_processes,
        )
        with contextlib.closing(converted):  # Workers end with the build, however it ends.
            for example in with_progress(examples, len(examples), name=name, unit="pictures"):
                yield example, next(converted) if example.location else None

    def _check_lost(self, name: str, tally: schema.Tally, lost: Sequence[str]) -> str:
        """A line on what a split lost; empty if nothing.

        Raises:
          UserError: it is more than may be lost.
        """
        if not tally.lost:
            return ""
        shown = ", ".join(lost[:_IDS_SHOWN]) + (", …" if len(lost) > _IDS_SHOWN else "")
        line = (
            f"split {name} of {self.info.full_name} lost {tally.lost} of {tally.seen} examples "
            f"({tally.missing} missing, {tally.undecodable} undecodable, {tally.captionless} "
            f"without caption): {shown}"
        )
        if tally.lost > self.settings.max_lost * tally.seen:
            share = math.ceil(tally.lost / tally.seen * 1000) / 1000
            raise UserError(f"{line}; mend the source, or accept the loss with --max_lost={share}")
        return line


def judge(
    example: Example,
    picture: pictures.Picture | str | None,
    is_short: Callable[[Sequence[str]], bool],
) -> tuple[dict | None, dict[str, int]]:
    """What becomes of an example.

    Args:
      example: With captions as published.
      picture: Its picture; None if it is missing, a reason if it is undecodable.
      is_short: Whether captions count into ``short_captions``.

    Returns:
      The record, or None if the example is lost; and what it adds to the counts of a `Tally`.
    """
    captions = [(caption_id, clean(text)) for caption_id, text in example.captions]
    captions = [caption for caption in captions if caption[1]]
    counts = {"empty_captions": len(example.captions) - len(captions)}
    if picture is None:
        return None, counts | {"missing": 1}
    if isinstance(picture, str):
        return None, counts | {"undecodable": 1}
    if not captions:
        return None, counts | {"captionless": 1}
    data, height, width, gray, cmyk, rotated = picture
    counts |= {"kept": 1, "gray": gray, "cmyk": cmyk, "rotated": rotated}
    counts["short_captions"] = is_short([text for _, text in captions])
    record = schema.make_record(
        image=data, image_id=example.image_id, height=height, width=width, captions=captions
    )
    return record, counts


def clean(caption: str) -> str:
    """A caption with single spaces and none around it; what UTF-8 cannot hold becomes ``?``."""
    return " ".join(caption.split()).encode(errors="replace").decode()
