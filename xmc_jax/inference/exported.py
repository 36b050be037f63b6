"""The folder of an exported model: what lies where in it, how it is written, read and verified.

  model.json                 step, fingerprints, versions; written last, it makes the folder whole
  config.json                the run's config
  weights.safetensors        averaged parameters and batch statistics, "params/block_0/…"
  vocab.txt                  the tokenizer's vocabulary
  README.md                  the model card
  metrics.jsonl              numbers of `evaluate`, if it measured the folder; no part of the model
and, for drawing without this package:
  program.stablehlo          a program for CPUs, GPUs and TPUs, see `program.py`
  text_encoder.safetensors   the text encoder's weights
  generate.py                draws with them; needs JAX, NumPy and safetensors alone
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xmc_jax import files
from xmc_jax.errors import UserError
from xmc_jax.run.folder import metrics_path
from xmc_jax.types import PyTree

FORMAT = 1
DTYPES = ("float32", "float16")
WEIGHTS, VOCABULARY, CARD = "weights.safetensors", "vocab.txt", "README.md"
PROGRAM, TEXT_WEIGHTS, SCRIPT = "program.stablehlo", "text_encoder.safetensors", "generate.py"
_PACKAGES = ("xmc-jax", "jax", "flax", "keras-hub", "numpy")


class ExportedModel(NamedTuple):
    """What is in the folder, but for the config.

    Attributes:
      step: The training step it is of.
      ema: Averaged parameters and statistics of the generator, in the type they are stored in.
      text_encoder_fingerprint: See `text_encoder.fingerprint`.
    """

    step: int
    ema: PyTree
    text_encoder_fingerprint: str


def manifest_path(folder: epath.PathLike) -> epath.Path:
    """Where the folder says what it is."""
    return epath.Path(folder).expanduser() / "model.json"


def is_exported(folder: epath.PathLike) -> bool:
    """Whether a whole exported model is there."""
    return manifest_path(folder).exists()


def demo_folder() -> epath.Path:
    """Where the model that comes with the package is.

    Raises:
      UserError: it has not been made yet.
    """
    folder = epath.Path(__file__).parents[1] / "demo"
    if not is_exported(folder):
        raise UserError(
            f"there is no demo model in {folder}; make it from a run: python -m xmc_jax.export "
            f"--workdir=runs/shapes_32 --out={folder} --dtype=float16 --noprogram"
        )
    return folder


def flatten(tree: PyTree) -> dict[str, Any]:
    """Nested dictionaries as one, with names like ``params/block_0/conv_1/kernel``."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def to_storage(ema: PyTree, dtype: str) -> dict[str, np.ndarray]:
    """The generator's arrays under their names, in the type they are stored in.

    Batch statistics stay float32: they are few, and variances span more than float16 does.

    Raises:
      UserError: there is no such type, or a parameter is beyond its range.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} is not one of {', '.join(DTYPES)}")
    arrays = {}
    for name, x in flatten(jax.device_get(ema)).items():
        with np.errstate(over="ignore"):  # It shows below.
            stored = x.astype(dtype) if name.startswith("params/") else x
        if not np.all(np.isfinite(stored)):
            raise UserError(
                f"{name} has values that {dtype} cannot hold; export with --dtype=float32"
            )
        arrays[name] = stored
    return arrays


def to_safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file."""
    return save({name: np.ascontiguousarray(x) for name, x in arrays.items()})


def open_folder(folder: epath.PathLike) -> epath.Path:
    """A folder to write a model to; made if it is not there. An older model in it stays.

    Raises:
      UserError: something else is in it, or it cannot be written.
    """
    folder = epath.Path(folder).expanduser()
    if folder.is_dir() and any(folder.iterdir()) and not is_exported(folder):
        raise UserError(f"{folder} is not empty and holds no exported model; choose another folder")
    files.ensure_writable(folder)
    return folder


def write(folder: epath.Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Writes the folder; an older model in it is replaced.

    Args:
      folder: See `open_folder`.
      manifest: Fields of ``model.json`` besides the format, versions and checksums.
      files: Contents by name. The checksum of each is kept, but for the card's.

    Raises:
      UserError: the folder cannot be written.
    """
    manifest = {
        "format": FORMAT,
        **manifest,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "sha256": {name: _sha256(data) for name, data in files.items() if name != CARD},
    }
    try:
        # While files change, the folder is no model.
        manifest_path(folder).unlink(missing_ok=True)
        # What was measured was the older model.
        for name in (PROGRAM, TEXT_WEIGHTS, SCRIPT, metrics_path(folder).name):
            (folder / name).unlink(missing_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        manifest_path(folder).write_text(json.dumps(manifest, indent=2) + "\n")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {folder}: {reason}; choose another folder") from error


def read(folder: epath.PathLike) -> ExportedModel:
    """Reads the folder, and verifies what is needed for drawing.

    Raises:
      UserError: it was written by a newer version, or a file is missing or has been changed.
    """
    path, folder = manifest_path(folder), epath.Path(folder).expanduser()
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{path} has format {manifest['format']}, and this version of xmc_jax reads "
                f"{FORMAT}; install version {manifest['versions']['xmc-jax']}"
            )
        for name in ("config.json", VOCABULARY):
            _read_verified(folder / name, manifest["sha256"][name])
        weights = load(_read_verified(folder / WEIGHTS, manifest["sha256"][WEIGHTS]))
        fingerprint = manifest["text_encoder"]["fingerprint"]
        step = manifest["step"]
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({error}); export the model anew") from error
    ema = flax.traverse_util.unflatten_dict(weights, sep="/")
    return ExportedModel(step, ema, fingerprint)


def _read_verified(path: epath.Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; copy it anew") from error
    if _sha256(data) != sha256:
        raise UserError(
            f"{path} is not the file that was exported (its sha256 differs); copy or export it anew"
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
