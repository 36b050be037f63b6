"""What the builders of captioned pictures share: from lists of examples to records and a report."""

import abc
import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import tensorflow_datasets as tfds

from xmc_jax.console import with_progress
from xmc_jax.data.builders import images, on_beam, schema
from xmc_jax.data.download import open_images
from xmc_jax.errors import UserError

_LOCAL_ROOT = "~/tensorflow_datasets"
_IDS_SHOWN = 3  # No more than `on_beam.SHOWN`.


class Settings(NamedTuple):
    """What a build is told that changes nothing in its records.

    Attributes:
      source: The user's own data, for the builder `folder`.
      manual_dir: Folder of archives that the user brought; ``downloads/manual`` beside the data
        sets if None.
      max_lost: Share of a split that may be missing, undecodable or without caption.
      num_processes: Processes that convert pictures; one for each CPU core if 0.
      mirror: Address of the pictures of Open Images, before ``/train/ID.jpg``.
      beam_runner: Runner of Apache Beam, e.g. ``"DirectRunner"``; without Beam if empty.
      beam_options: Its options, each ``"key=value"`` or ``"key"``.
    """

    source: Path | None = None
    manual_dir: Path | None = None
    max_lost: float = 0.001
    num_processes: int = 0
    mirror: str = open_images.OPEN_IMAGES
    beam_runner: str = ""
    beam_options: tuple[str, ...] = ()


class Example(NamedTuple):
    """A captioned picture before it is read.

    Attributes:
      image_id: Which picture of its source it is.
      location: Where the picture is; None if it is missing, a reason if it is undecodable.
      captions: ``(id, text)`` of each, as published.
    """

    image_id: str
    location: images.Location | str | None
    captions: Sequence[tuple[str, str]]


class Split(NamedTuple):
    """A split before it is built: its examples, and how many more were dropped as duplicates."""

    examples: Sequence[Example]
    duplicates: int = 0


def make_configs() -> list[tfds.core.BuilderConfig]:
    """A TFDS config for each form of pictures."""
    return [
        tfds.core.BuilderConfig(name=name, description=description)
        for name, description in images.FORMS.items()
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
        manual = self.downloads / "manual"
        return [self.settings.manual_dir or manual, manual]

    @property
    def downloads(self) -> Path:
        """Where downloads go: beside the data sets, or here if those are in a bucket."""
        root = os.fspath(self.data_dir_root)
        return Path(_LOCAL_ROOT if "://" in root else root).expanduser() / "downloads"

    @staticmethod
    def is_short(captions: Sequence[str]) -> bool:
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
        self._tallies = {
            name: schema.Tally(
                seen=len(split.examples),
                duplicates=split.duplicates,
                expected=self.EXPECTED.get(name),
            )
            for name, split in splits.items()
        }
        for name, split in splits.items():
            missing = [x.image_id for x in split.examples if x.location is None]
            # Known beforehand, unlike damage: it need not cost hours.
            self._check_lost(
                name, schema.Tally(seen=len(split.examples), missing=len(missing)), missing
            )
        generate = self._on_beam if self.settings.beam_runner else self._generate_examples
        return {name: generate(name, split.examples) for name, split in splits.items()}

    def _generate_examples(
        self, name: str, examples: Sequence[Example]
    ) -> Iterator[tuple[int, dict]]:
        lost = []
        for index, (example, picture) in enumerate(self._convert(name, examples)):
            record, counts, loss = judge(example, picture, self.is_short)
            self._tallies[name].add(counts)
            if record:
                yield index, record
            else:
                lost.append(loss)
        self._report(name, lost)

    def _convert(
        self, name: str, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, images.Picture | str | None]]:
        """Each example with its picture: None if it is missing, a reason if it is undecodable."""
        converted = images.convert_all(
            [x.location for x in examples if isinstance(x.location, images.Location)],
            self.form,
            num_processes=self.settings.num_processes,
        )
        with contextlib.closing(converted):  # Workers end with the build, however it ends.
            for example in with_progress(examples, len(examples), name=name, unit="pictures"):
                known = example.location
                yield example, next(converted) if isinstance(known, images.Location) else known

    def _on_beam(self, name: str, examples: Sequence[Example]) -> on_beam.PTransform:
        """The same on Apache Beam, each picture read once."""
        groups: dict[images.Location | str | None, list] = {}
        for index, x in enumerate(examples):
            groups.setdefault(x.location, []).append((index, x.image_id, x.captions))
        judge_all = functools.partial(_judge_group, form=self.form, is_short=self.is_short)
        return on_beam.make_transform(groups.items(), judge_all, self.data_path, name)

    def _process_pipeline_result(self, pipeline_result: on_beam.PipelineResult) -> None:
        del pipeline_result  # The tallies are in files: not every runner gives counters back.
        for name, tally in self._tallies.items():
            counts, lost = on_beam.pop_tally(self.data_path, name)
            tally.add(counts)
            self._report(name, lost)

    def _report(self, name: str, lost: Sequence[str]) -> None:
        """Ends a split: it may have lost too much, or goes into the report.

        Raises:
          UserError: it lost too much.
        """
        tally = self._tallies[name]
        if line := self._check_lost(name, tally, lost):
            print(f"notice: {line}", file=sys.stderr)
        if not tally.kept:
            raise UserError(f"split {name} of {self.info.full_name} has no example")
        schema.write_report(self.data_path, self._tallies, self.describe_source())

    def _check_lost(self, name: str, tally: schema.Tally, lost: Sequence[str]) -> str:
        """A line on what a split lost; empty if nothing.

        Raises:
          UserError: it is more than may be lost.
        """
        if not tally.lost:
            return ""
        shown = ", ".join(lost[:_IDS_SHOWN]) + (", …" if tally.lost > _IDS_SHOWN else "")
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
    picture: images.Picture | str | None,
    is_short: Callable[[Sequence[str]], bool],
) -> tuple[dict | None, dict[str, int], str]:
    """What becomes of an example.

    Args:
      example: With captions as published.
      picture: Its picture; None if it is missing, a reason if it is undecodable.
      is_short: Whether captions count into ``short_captions``.

    Returns:
      The record, or None if the example is lost; what it adds to the counts of a `Tally`; and how
      to name the loss.
    """
    captions = [(caption_id, clean(text)) for caption_id, text in example.captions]
    captions = [caption for caption in captions if caption[1]]
    counts = {"empty_captions": len(example.captions) - len(captions)}
    if picture is None:
        return None, counts | {"missing": 1}, example.image_id
    if isinstance(picture, str):
        return None, counts | {"undecodable": 1}, f"{example.image_id} ({picture})"
    if not captions:
        return None, counts | {"captionless": 1}, example.image_id
    data, height, width, gray, cmyk, rotated = picture
    counts |= {"kept": 1, "gray": gray, "cmyk": cmyk, "rotated": rotated}
    counts["short_captions"] = is_short([text for _, text in captions])
    record = schema.make_record(
        image=data, image_id=example.image_id, height=height, width=width, captions=captions
    )
    return record, counts, ""


def _judge_group(
    group: list, form: str, is_short: Callable[[Sequence[str]], bool]
) -> Iterator[tuple[int, dict | None, dict[str, int], str]]:
    """`judge` of the examples that share a picture, each with its index; from plain lists."""
    location, examples = group
    picture = location
    if isinstance(location, list):  # A `Location`, out of JSON.
        picture = images.convert_at(images.Location(*location), form)
    for index, image_id, captions in examples:
        yield index, *judge(Example(image_id, None, captions), picture, is_short)


def clean(caption: str) -> str:
    """A caption with single spaces and none around it; what UTF-8 cannot hold becomes ``?``."""
    return " ".join(caption.split()).encode(errors="replace").decode()
