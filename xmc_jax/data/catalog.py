"""Builds data sets and opens their splits."""

import importlib
import sys

import tensorflow_datasets as tfds
from etils import epath

from xmc_jax.console import notice
from xmc_jax.data.builders import schema
from xmc_jax.data.builders.captioned import Settings, load_beam
from xmc_jax.data.builders.folder.folder_dataset_builder import name_form
from xmc_jax.data.overlap import evaluation_data
from xmc_jax.data.records import Records
from xmc_jax.errors import UserError, reason

DATASETS = ("coco", "ln_coco", "ln_open_images", "emoji", "folder", "shapes")
FILE_FORMAT = "array_record"  # The format that supports random access.


def make_builder(name: str, *, form: str = "", data_dir: str) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a data set.

    Args:
      name: One of `DATASETS`.
      form: Name of a TFDS config of the data set, which says how images are stored. The first one
        by default.
      data_dir: Folder of all data sets.

    Raises:
      UserError: there is no such data set or form, or what is there is damaged.
    """
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    module = importlib.import_module(f"xmc_jax.data.builders.{name}.{name}_dataset_builder")
    form = form or next((config.name for config in module.Builder.BUILDER_CONFIGS), "")
    try:
        config = module.Builder.make_config(form)
    except ValueError as error:
        raise UserError(f"data set {name}: {reason(error)}") from error
    # TFDS warns of a config that it does not know, and refuses another object of the same name.
    config = module.Builder.builder_configs.setdefault(form, config)
    root = epath.Path(data_dir).expanduser()
    try:
        return module.Builder(data_dir=root, config=config, file_format=FILE_FORMAT)
    except Exception as error:  # TFDS reads the description of a data set that is there.
        raise _damage(name, root / name / form, error) from error


def prepare(name: str, *, form: str, data_dir: str, settings: Settings) -> None:
    """Builds a data set, and prints its folder, its report, and how to train on it.

    Arguments and errors as in `make_builder` and `build`; for ``folder``, the form may also be one
    of `images.FORMS`, and the name is then that of the source.
    """
    if settings.source:
        form = name_form(settings.source, form)
    builder = make_builder(name, form=form, data_dir=data_dir)
    state = "already built" if _is_built(builder) else "built"
    folder = build(builder, settings)
    splits = builder.info.splits.items()
    counts = ", ".join(f"{split} {info.num_examples}" for split, info in splits)
    print(f"{state}: {folder} ({counts})")
    for line in schema.summarise(schema.read_report(folder)):
        print(f"  {line}")
    print(f"train on it with --config.data.name={name} --config.data.form={folder.parent.name}")


def build(builder: tfds.core.DatasetBuilder, settings: Settings = Settings()) -> epath.Path:
    """Builds a data set, with a ``build_report.json``, unless it is there; returns its folder.

    An interrupted build leaves nothing that looks complete: TFDS writes to a temporary folder and
    renames it at the end.

    Args:
      builder: See `make_builder`.
      settings: Options that do not change the records.

    Raises:
      UserError: the folder cannot be written, the source is missing or lost too much, Beam failed,
        or the data set was built from another source before.
    """
    folder = epath.Path(builder.data_dir)
    if not _is_built(builder):
        _download_and_prepare(builder, folder, settings)
    built_from = schema.read_report(folder).get("source", {}).get("path")
    if settings.source and built_from != str(settings.source):
        raise UserError(
            f"{folder} was built from {built_from}, not from {settings.source}; choose another "
            "name with --form"
        )
    return folder


def _is_built(builder: tfds.core.DatasetBuilder) -> bool:
    # Of a folder that is not there, TFDS warns that it is damaged.
    return epath.Path(builder.data_dir).exists() and builder.is_prepared()


def _download_and_prepare(
    builder: tfds.core.DatasetBuilder, folder: epath.Path, settings: Settings
) -> None:
    for path in folder.parent.glob(f"incomplete.*_{folder.name}"):
        notice(
            f"{path} is left from an interrupted build, unless a build is running now; "
            "it can be deleted"
        )
    builder.settings = settings
    # Builders report with `with_progress`, whose lines TFDS's bars would overwrite.
    tfds.disable_progress_bar()
    builder._log_download_bytes = builder._log_download_done = lambda: None
    runner, options = settings.beam_runner, settings.beam_options
    beam = load_beam().make_options(runner, options) if runner else {}
    config = tfds.download.DownloadConfig(try_download_gcs=False, **beam)
    try:
        builder.download_and_prepare(file_format=FILE_FORMAT, download_config=config)
    except OSError as error:
        if not _is_built(builder):
            raise UserError(
                f"cannot build {builder.info.full_name} in {folder}: {reason(error)}; choose "
                "another --data_dir"
            ) from error
        # The final rename found the same records there.
        notice(f"another process has built {folder} meanwhile")
    except Exception as error:
        if isinstance(error, UserError) or not beam:
            raise
        # Workers raise anything; Beam has printed all of it.
        raise UserError(f"the Beam pipeline failed: {reason(error)}") from error


def open_train_split(config, data_dir: str) -> Records:
    """The split that a config trains on; see `open_split`."""
    data = config.data
    return open_split(data.name, form=data.form, split=data.train_split, data_dir=data_dir)


def open_eval_split(config, data_dir: str) -> Records:
    """The split that a config evaluates on; see `open_split`."""
    name, data = evaluation_data(config), config.data
    return open_split(name, form=data.form, split=data.eval_split, data_dir=data_dir)


def open_split(name: str, *, form: str, split: str, data_dir: str) -> Records:
    """A split by index; images stay encoded. Arguments as in `make_builder`.

    Builds ``shapes`` if it is missing: it is procedural, while the other data sets need archives.

    Raises:
      UserError: there is no such data set or split, or it has not been built.
    """
    builder = make_builder(name, form=form, data_dir=data_dir)
    if not _is_built(builder):
        if name != "shapes":
            source = " --source=…" if name == "folder" else ""
            raise UserError(
                f"data set {builder.info.full_name} is not in {data_dir}; build it with: python -m "
                f"xmc_jax.prepare --dataset={name}{source} --data_dir={data_dir} --form={form}"
            )
        print(f"building {builder.info.full_name} in {data_dir} (once)", file=sys.stderr)
        build(builder)
        builder = make_builder(name, form=form, data_dir=data_dir)  # Reads the new description.
    if split not in builder.info.splits:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}")
    info = builder.info.splits[split]
    shards = [(str(p), n) for p, n in zip(info.filepaths, info.shard_lengths, strict=True)]
    try:
        files = builder.as_data_source(split=split).data_source
    except Exception as error:  # TFDS wraps whatever its readers raise.
        raise _damage(name, epath.Path(builder.data_dir), error) from error
    return Records(files, shards)


def _damage(name: str, folder: epath.Path, error: Exception) -> UserError:
    return UserError(
        f"data set {name} in {folder} is damaged ({reason(error)}); delete that folder and build "
        "it again with python -m xmc_jax.prepare"
    )
