"""The base of the builders of captioned images: from lists of examples to records and a report."""

import abc
import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from xmc_jax.console import notice, with_progress
from xmc_jax.data import wordpiece
from xmc_jax.data.builders import images, schema
from xmc_jax.data.download import open_images
from xmc_jax.errors import UserError, reason
from xmc_jax.files import is_remote

NUM_NAMED = 3  # Lost examples that are named; the others are only counted.


class Settings(NamedTuple):
    """Options of a build that do not change its records.

    Attributes:
      source: The user's own data, for the builder `folder`.
      manual_dir: Folder of archives that the user has downloaded; ``downloads/manual`` beside the
        data sets if None.
      max_lost: Largest fraction of a split that may be missing, undecodable or without caption.
      num_processes: Processes that convert images; one for each CPU core if 0.
      mirror: Address of the images of Open Images, before ``/train/ID.jpg``.
      beam_runner: A runner of Apache Beam, such as ``"DirectRunner"``; Beam is not used if empty.
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
    """A captioned image before it is read.

    Attributes:
      location: Where the image is; None if it is missing, a reason if it is undecodable.
      captions: ``(id, text)`` of each caption, as published.
    """

    image_id: str
    location: images.Location | str | None
    captions: Sequence[tuple[str, str]]


class Split(NamedTuple):
    """A split before it is built: its examples, and the number of duplicates that were dropped."""

    examples: Sequence[Example]
    duplicates: int = 0


def load_beam() -> ModuleType:
    """The module `on_beam`; raises UserError if Beam is not installed."""
    try:  # Beam is optional, and takes seconds.
        from xmc_jax.data.builders import on_beam
    except ImportError as error:
        raise UserError(
            f"Apache Beam is not installed ({reason(error)}); pip install 'apache-beam[gcp]'"
        ) from error
    return on_beam


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds a data set from lists of examples; a subclass lists the examples.

    Records are in the order of the examples, without those that were lost: the reader shuffles
    globally. `EXPECTED` has the number of examples of each published split.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=description)
        for name, description in images.FORMS.items()
    ]
    EXPECTED: ClassVar[dict[str, int]] = {}
    settings = Settings()

    @abc.abstractmethod
    def list_examples(self) -> dict[str, Split]:
        """The splits, with their examples in the order of the records.

        Raises UserError if the source is missing or damaged.
        """

    @classmethod
    def make_config(cls, form: str) -> tfds.core.BuilderConfig:
        """The TFDS config with a name; raises ValueError if there is none."""
        if form not in cls.builder_configs:
            raise ValueError(f"no form {form!r}; there are {', '.join(cls.builder_configs)}")
        return cls.builder_configs[form]

    @property
    def form(self) -> str:
        """How images are stored, one of `images.FORMS`: the last part of the config's name."""
        return self.builder_config.name.rpartition("_")[2]

    @property
    def archive_folders(self) -> list[Path]:
        """Folders where archives may be; downloads go to the last one."""
        manual = self.downloads / "manual"
        return [self.settings.manual_dir or manual, manual]

    @property
    def downloads(self) -> Path:
        """Folder of downloads: beside the data sets; local if those are in a bucket."""
        root = self.data_dir_root
        local = "~/tensorflow_datasets" if is_remote(root) else root
        return Path(local).expanduser() / "downloads"

    @staticmethod
    def is_short(captions: Sequence[str]) -> bool:
        """Whether an example counts in ``short_captions``: a caption has fewer than three words."""
        return any(len(text.split()) < 3 for text in captions)

    def describe_source(self) -> dict:
        """Fields of the report about the source, besides counts."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(None if self.form == "original" else "jpeg"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        # TFDS's own downloads cannot resume.
        del dl_manager
        splits = self.list_examples()
        self._tallies = {}
        for name, (examples, duplicates) in splits.items():
            seen, expected = len(examples), self.EXPECTED.get(name)
            self._tallies[name] = schema.Tally(seen, duplicates=duplicates, expected=expected)
            missing = [x.image_id for x in examples if x.location is None]
            # Unlike damaged images, missing ones are known before hours of work.
            self._check_lost(name, schema.Tally(seen, missing=len(missing)), missing)
        generate = self._generate_examples
        if self.settings.beam_runner:
            generate = functools.partial(load_beam().make_transform, self)
        return {name: generate(name, split.examples) for name, split in splits.items()}

    def _generate_examples(
        self, name: str, examples: Sequence[Example]
    ) -> Iterator[tuple[int, dict]]:
        lost = []
        converted = images.convert_all(
            [x.location for x in examples if isinstance(x.location, images.Location)],
            self.form,
            num_processes=self.settings.num_processes,
        )
        with contextlib.closing(converted):  # Ends its workers, however the build ends.
            reported = with_progress(examples, len(examples), name=name, unit="images")
            for index, example in enumerate(reported):
                image = example.location
                if isinstance(image, images.Location):
                    image = next(converted)
                record, counts, loss = make_record(example, image, self.is_short)
                self._tallies[name].add(counts)
                if record:
                    yield index, record
                else:
                    lost.append(loss)
        self._report(name, lost)

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        """Called by TFDS after a build on Beam."""
        del pipeline_result  # Not every runner returns counters; the tallies are in files.
        for name, tally in self._tallies.items():
            counts, lost = load_beam().pop_tally(self.data_path, name)
            tally.add(counts)
            self._report(name, lost)

    def _report(self, name: str, lost: Sequence[str]) -> None:
        """Adds a finished split to the report, unless it lost too much or has no example."""
        tally = self._tallies[name]
        if line := self._check_lost(name, tally, lost):
            notice(line)
        if not tally.kept:
            raise UserError(f"split {name} of {self.info.full_name} has no example")
        schema.write_report(self.data_path, self._tallies, self.describe_source())

    def _check_lost(self, name: str, tally: schema.Tally, lost: Sequence[str]) -> str:
        """A line about what a split lost, if anything; raises UserError if that is too much."""
        if not tally.lost:
            return ""
        shown = ", ".join(lost[:NUM_NAMED]) + ", …" * (tally.lost > NUM_NAMED)
        line = (
            f"split {name} of {self.info.full_name} lost {tally.lost} of {tally.seen} examples "
            f"({tally.missing} missing, {tally.undecodable} undecodable, {tally.captionless} "
            f"without caption): {shown}"
        )
        # As `--max_lost` is suggested: 0.29 * 100 is less than 29.
        if tally.lost / tally.seen > self.settings.max_lost:
            share = math.ceil(tally.lost / tally.seen * 1000) / 1000
            raise UserError(f"{line}; repair the source, or accept the loss: --max_lost={share}")
        return line


def make_record(
    example: Example,
    image: images.StoredImage | str | None,
    is_short: Callable[[Sequence[str]], bool],
) -> tuple[dict | None, dict[str, int], str]:
    """Makes the record of an example.

    Args:
      example: The example, with captions as published.
      image: Its image; None if it is missing, a reason if it is undecodable.
      is_short: See `Builder.is_short`.

    Returns:
      The record, or None if the example is lost; what to add to a `schema.Tally`; and the name of
      the lost example, with the reason.
    """
    captions = [(clean(caption_id), clean(text)) for caption_id, text in example.captions]
    captions = [caption for caption in captions if not _is_empty(caption[1])]
    counts = {"empty_captions": len(example.captions) - len(captions)}
    if image is None:
        return None, counts | {"missing": 1}, example.image_id
    if isinstance(image, str):
        return None, counts | {"undecodable": 1}, f"{example.image_id} ({image})"
    if not captions:
        return None, counts | {"captionless": 1}, example.image_id
    counts |= {"kept": 1, "gray": image.gray, "cmyk": image.cmyk, "rotated": image.rotated}
    counts["short_captions"] = is_short([text for _, text in captions])
    size = image.height, image.width
    return schema.make_record(clean(example.image_id), image.data, size, captions), counts, ""


def clean(text: str) -> str:
    """Text with single spaces, stripped; ``?`` replaces what UTF-8 cannot encode."""
    return " ".join(text.split()).encode(errors="replace").decode()


def _is_empty(caption: str) -> bool:
    """Whether a tokenizer reads nothing in a caption; there are characters that nobody sees."""
    return not wordpiece.uncase(wordpiece.clean(caption))
