"""Builds a data set for training and evaluation.

    python -m xmc_jax.prepare --dataset=shapes --data_dir=~/tensorflow_datasets --form=sq64
    python -m xmc_jax.prepare --dataset=coco --manual_dir=~/archives
    python -m xmc_jax.prepare --dataset=ln_open_images
    python -m xmc_jax.prepare --dataset=emoji
    python -m xmc_jax.prepare --dataset=folder --source=~/holidays
    python -m xmc_jax.prepare --dataset=folder --source='shards/*.tar'

Writes TFDS's array_record files and build_report.json. Archives are downloaded, or taken from
--manual_dir; docs/data.md lists them. An interrupted build leaves nothing that looks complete: run
the same command again.
"""

import os
from pathlib import Path

from absl import flags
from etils import epath

from xmc_jax import cli
from xmc_jax.errors import UserError
from xmc_jax.files import is_remote


def main() -> None:
    """Reads the flags and builds."""
    name, values = cli.required("dataset"), flags.FLAGS
    source, manual_dir = _path(values.source), _path(values.manual_dir)
    if manual_dir and not manual_dir.is_dir():
        raise UserError(f"--manual_dir={manual_dir} is not a folder")
    if source and name != "folder":
        raise UserError(f"--source is for --dataset=folder, not for {name}")
    if values.mirror and name != "ln_open_images":
        raise UserError(f"--mirror is for --dataset=ln_open_images, not for {name}")
    runner, options = values.beam_runner, tuple(values.beam_options)
    if options and not runner:
        raise UserError("--beam_options needs --beam_runner, e.g. --beam_runner=DirectRunner")
    if runner and name == "shapes":
        raise UserError("--beam_runner is for data sets of photographs; shapes are fast without it")

    # It loads TFDS, which takes seconds; --help and a wrong flag do not wait for it.
    from xmc_jax.data import catalog

    settings = catalog.Settings(
        source=source,
        manual_dir=manual_dir,
        max_lost=values.max_lost,
        num_processes=values.num_processes,
        mirror=values.mirror or catalog.Settings().mirror,
        beam_runner=runner,
        beam_options=options,
    )
    catalog.prepare(name, form=values.form, data_dir=values.data_dir, settings=settings)


def _path(value: str | None) -> Path | None:
    if value and is_remote(value):
        return epath.Path(value)
    return Path(os.path.abspath(os.path.expanduser(value))) if value else None


def _define_flags() -> None:
    flags.DEFINE_string(
        "dataset", None, "Data set: coco, ln_coco, ln_open_images, emoji, folder, shapes."
    )
    cli.define_data_dir_flag()
    flags.DEFINE_string(
        "form",
        "",
        "How images are stored: sq256 (squashed to 256x256, the default), sq128, or original; "
        "NAME_sq256 names a data set of your own; shapes has sq32, one_sq32, two_sq32, "
        "narrative_sq64, sq32_n400 (400 training examples), …; emoji has sq64, sq64_black, "
        "sq64_any (background), sq64_de (language), …",
    )
    flags.DEFINE_string(
        "source",
        None,
        "For folder: a folder of images with a text file beside each; a JSONL file of "
        '{"image": …, "captions": […]}; or tar archives of images and texts: one, a folder of '
        "them, or a quoted pattern, 'shards/*.tar'.",
    )
    flags.DEFINE_string(
        "manual_dir",
        None,
        "Folder of archives that you have downloaded; DATA_DIR/downloads/manual by default. Images "
        "of Open Images: ID.jpg, anywhere in its folder open_images.",
    )
    flags.DEFINE_float(
        "max_lost",
        0.001,
        "Largest fraction of a split that may be missing or undecodable.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_integer(
        "num_processes",
        0,
        "Processes that convert images; one for each CPU core if 0. Changes no byte.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "mirror", "", "Another address of the images of Open Images, before /train/ID.jpg."
    )
    flags.DEFINE_string(
        "beam_runner",
        "",
        "Convert images on Apache Beam: DirectRunner, DataflowRunner, …; launch/README.md has the "
        "whole command.",
    )
    flags.DEFINE_list("beam_options", "", "Options of the runner: key=value,key=value,…")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
