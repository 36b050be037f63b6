"""Batches from prepared data sets, with grain over `tfds.data_source`.

The training stream is a pure function of the seed and the step: any step can be read directly, and
any number of processes reads the same global batches.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain.python as grain
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Bool, Int32, UInt8

from xmc_jax.data import preprocess
from xmc_jax.data.builders import on_beam, schema
from xmc_jax.data.builders.captioned import Settings
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.errors import UserError
from xmc_jax.types import Batch

DATASETS = ("coco", "ln_coco", "ln_open_images", "folder", "shapes")
FILE_FORMAT = "array_record"  # The format that serves random access.
_READ_THREADS = 2  # Decoding small images is cheap; more threads only compete with the step.
_BATCHES_AHEAD = 4


class EvalBatch(NamedTuple):
    """Examples in their order; the last batch is padded.

    Attributes:
      image: RGB pixels.
      tokens: Token ids of the drawn caption.
      valid: False at padding.
      ids: Image ids of the valid examples.
      captions: Their drawn captions.
      caption_indices: Which of its captions each example drew.
    """

    image: UInt8[np.ndarray, "b h w 3"]
    tokens: Int32[np.ndarray, "b t"]
    valid: Bool[np.ndarray, " b"]
    ids: list[str]
    captions: list[str]
    caption_indices: list[int]


def make_builder(name: str, *, form: str = "", data_dir: str) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a data set.

    Args:
      name: One of `DATASETS`.
      form: Name of its TFDS config: which pictures, and how. The first by default.
      data_dir: Where data sets are.

    Raises:
      UserError: there is no such data set or form of it.
    """
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    module = importlib.import_module(f"xmc_jax.data.builders.{name}.{name}_dataset_builder")
    form = form or next(iter(module.Builder.builder_configs), "")
    try:
        config = module.Builder.make_config(form)
    except ValueError as error:
        raise UserError(f"data set {name}: {error}") from error
    return module.Builder(
        data_dir=epath.Path(data_dir).expanduser(), config=config, file_format=FILE_FORMAT
    )


def build(builder: tfds.core.DatasetBuilder, settings: Settings = Settings()) -> epath.Path:
    """Builds a data set unless it is there, with a ``build_report.json``.

    A build that is cut off leaves nothing that looks complete: TFDS writes to a temporary folder
    and renames it at the end.

    Args:
      builder: See `make_builder`.
      settings: What changes nothing in the records.

    Returns:
      The folder of the data.

    Raises:
      UserError: the folder cannot be written, the source is missing or lost too much, or Beam
        failed.
    """
    folder = epath.Path(builder.data_dir)
    if builder.is_prepared():
        _check_source(folder, settings.source)
        return folder
    for path in folder.parent.glob(f"incomplete.*_{folder.name}"):
        print(
            f"notice: {path} is left of a build that was cut off, unless one is running now; "
            "it can be deleted",
            file=sys.stderr,
        )
    builder.settings = settings
    beam = on_beam.make_options(settings.beam_runner, settings.beam_options)
    try:
        builder.download_and_prepare(
            file_format=FILE_FORMAT,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, **beam),
        )
    except OSError as error:
        raise UserError(
            f"cannot build {builder.info.full_name} in {folder}: {error.strerror or error}; "
            "choose another --data_dir"
        ) from error
    except Exception as error:
        if isinstance(error, UserError) or not beam:
            raise
        # Whatever a worker raised; Beam has printed all of it.
        raise UserError(f"the Beam pipeline failed: {str(error).splitlines()[0]}") from error
    return folder


def _check_source(folder: epath.Path, source: os.PathLike | None) -> None:
    """Refuses to take a data set for that of another source of the same name."""
    built_from = schema.read_report(folder).get("source", {}).get("path")
    if source and built_from != str(source):
        raise UserError(
            f"{folder} was built from {built_from}, not from {source}; give --form another name"
        )


def open_split(
    name: str, *, form: str, split: str, data_dir: str, build_missing: bool = False
) -> Sequence[dict[str, Any]]:
    """A split of a prepared data set, by index; images stay undecoded.

    Args:
      name: One of `DATASETS`.
      form: Name of its TFDS config.
      split: Name of the split.
      data_dir: Where data sets are.
      build_missing: Whether to build the data set if it is not there.

    Raises:
      UserError: there is no such data set or split, or it is not prepared.
    """
    builder = make_builder(name, form=form, data_dir=data_dir)
    if not builder.is_prepared():
        if not build_missing:
            source = " --source=…" if name == "folder" else ""
            raise UserError(
                f"data set {builder.info.full_name} is not in {data_dir}; make it with: python -m "
                f"xmc_jax.prepare --dataset={name}{source} --data_dir={data_dir} --form={form}"
            )
        print(f"building {builder.info.full_name} in {data_dir} (once)", file=sys.stderr)
        build(builder)
    if split not in builder.info.splits:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}")
    return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})


def train_batches(
    source: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    *,
    resolution: int,
    batch_size: int,
    num_micro_batches: int,
    seed: int,
    start_step: int = 0,
    crop: str = "squash",
    antialias: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """An endless stream of training steps' batches, prefetched in the background.

    Each epoch visits every example once, in an order of its own; each visit draws one of the
    example's captions.

    Args:
      source: A split, see `open_split`.
      tokenizer: Of the text encoder.
      resolution: Side of the images.
      batch_size: Examples of one micro-batch, over all processes.
      num_micro_batches: Micro-batches of a step.
      seed: Of the order and the captions.
      start_step: The first step to yield; reaching it costs nothing.
      crop: See `preprocess.resize`.
      antialias: See `preprocess.resize`.
      process_index: This process.
      process_count: How many share the batch; each yields its own rows of it.

    Yields:
      For each step, arrays with leading axes ``[num_micro_batches, batch_size / process_count]``.
    """
    # Indexing the stream is random access: a shuffle is a permutation, a repeat a new one.
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    rows = batch_size // process_count

    def load(position: int) -> tuple[np.ndarray, str]:
        micro_batch, row = divmod(position, rows)
        index = micro_batch * batch_size + process_index * rows + row
        example = examples[index]
        captions = example["captions"]["text"]
        choice = np.random.default_rng([seed, index]).integers(len(captions))
        image = preprocess.decode(example["image"], _text(example["image/id"]))
        image = preprocess.resize(image, resolution, crop=crop, antialias=antialias)
        return image, _text(captions[choice])

    def collate(examples: Sequence[tuple[np.ndarray, str]]) -> Batch:
        pixels, captions = zip(*examples, strict=True)
        shape = (num_micro_batches, rows)
        pixels, tokens = np.stack(pixels), tokenizer(captions)
        return Batch(
            pixels.reshape(*shape, *pixels.shape[1:]), tokens.reshape(*shape, *tokens.shape[1:])
        )

    per_step = num_micro_batches * rows
    batches = (
        grain.MapDataset.range(start_step * per_step, 2**60)
        .map(load)
        .batch(per_step, batch_fn=collate)
        .to_iter_dataset(
            grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        )
    )
    return iter(batches)


def eval_examples(
    source: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    *,
    resolution: int,
    batch_size: int,
    num_examples: int,
    seed: int,
    crop: str = "squash",
    antialias: bool = True,
) -> Iterator[EvalBatch]:
    """A fixed selection of a split, each example with one fixed caption.

    Args:
      source: A split, see `open_split`.
      tokenizer: Of the text encoder.
      resolution: Side of the images.
      batch_size: Rows of a batch; the last one is padded to it.
      num_examples: How many distinct examples; all, if the split has fewer.
      seed: Of the selection and the captions.
      crop: See `preprocess.resize`.
      antialias: See `preprocess.resize`.
    """
    chosen = np.random.default_rng(seed).permutation(len(source))[:num_examples]
    for start in range(0, len(chosen), batch_size):
        indices = chosen[start : start + batch_size]
        pixels, ids, captions, caption_indices = [], [], [], []
        for index in indices:
            example = source[int(index)]
            texts = example["captions"]["text"]
            choice = int(np.random.default_rng([seed, index]).integers(len(texts)))
            ids.append(_text(example["image/id"]))
            captions.append(_text(texts[choice]))
            caption_indices.append(choice)
            image = preprocess.decode(example["image"], ids[-1])
            pixels.append(preprocess.resize(image, resolution, crop=crop, antialias=antialias))
        padding = batch_size - len(indices)
        yield EvalBatch(
            image=_pad(np.stack(pixels), padding),
            tokens=_pad(tokenizer(captions), padding),
            valid=np.arange(batch_size) < len(indices),
            ids=ids,
            captions=captions,
            caption_indices=caption_indices,
        )


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    """Repeats the last row, which every model can digest."""
    return np.concatenate([rows, np.repeat(rows[-1:], count, axis=0)])


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
