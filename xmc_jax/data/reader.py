"""Builds and opens data sets; `batches` reads them."""

import json
import sys
from pathlib import Path

import tensorflow_datasets as tfds

from xmc_jax.data.builders.shapes import shapes_dataset_builder
from xmc_jax.data.records import Records
from xmc_jax.errors import UserError

DATASETS = ("shapes",)
FILE_FORMAT = "array_record"  # The format that serves random access.


def make_builder(
    name: str, *, resolution: int, data_dir: str, narrative: bool = False, scale: float = 1.0
) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a data set.

    Raises:
      UserError: there is no such data set or form of it.
    """
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    try:
        config = shapes_dataset_builder.make_config(
            resolution=resolution, narrative=narrative, scale=scale
        )
    except ValueError as error:
        raise UserError(f"data set {name}: {error}") from error
    builder = shapes_dataset_builder.Builder
    # TFDS takes the configs it lists as they are, and scaled ones as custom ones.
    config = builder.builder_configs.get(config.name, config)
    return builder(data_dir=Path(data_dir).expanduser(), config=config, file_format=FILE_FORMAT)


def build(builder: tfds.core.DatasetBuilder) -> Path:
    """Builds a data set unless it is there, and writes ``build_report.json`` beside it.

    A build that is cut off leaves nothing that looks complete: TFDS writes to a temporary folder
    and renames it at the end.

    Returns:
      The folder of the data.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = Path(builder.data_dir)
    try:
        builder.download_and_prepare(
            file_format=FILE_FORMAT,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
        report = folder / "build_report.json"
        if not report.exists():
            counts = {split: info.num_examples for split, info in builder.info.splits.items()}
            nothing = ("missing", "undecodable", "gray", "cmyk", "rotated", "short_captions")
            fields = {
                s: {"seen": n, "kept": n, **dict.fromkeys(nothing, 0)} for s, n in counts.items()
            }
            report.write_text(json.dumps(fields, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot build {builder.info.full_name} in {folder}: {error.strerror or error}; "
            "choose another --data_dir"
        ) from error
    return folder


def open_split(
    name: str,
    *,
    resolution: int,
    split: str,
    data_dir: str,
    narrative: bool = False,
    scale: float = 1.0,
    build_missing: bool = False,
) -> Records:
    """A split of a prepared data set, by index; images stay undecoded.

    Args:
      name: One of `DATASETS`.
      resolution: Side of the prepared images.
      split: Name of the split.
      data_dir: Where data sets are.
      narrative: Whether to read long descriptions.
      scale: Share of the full splits that was built.
      build_missing: Whether to build the data set if it is not there.

    Raises:
      UserError: there is no such data set or split, or it is not prepared.
    """
    builder = make_builder(
        name, resolution=resolution, data_dir=data_dir, narrative=narrative, scale=scale
    )
    if not builder.is_prepared():
        if not build_missing:
            raise UserError(
                f"data set {builder.info.full_name} is not in {data_dir}; make it with: python -m "
                f"xmc_jax.prepare --dataset={name} --data_dir={data_dir} --resolution={resolution}"
                + (" --narrative" if narrative else "")
                + (f" --scale={scale}" if scale != 1 else "")
            )
        print(f"building {builder.info.full_name} in {data_dir} (once)", file=sys.stderr)
        build(builder)
    if split not in builder.info.splits:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}")
    return Records(builder.as_data_source(split=split).data_source)
