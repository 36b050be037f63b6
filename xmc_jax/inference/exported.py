"""The folder of an exported model: its files, and how they are written, read and verified.

  model.json                 step, fingerprints, versions; written last, so that its presence shows
                             that the folder is complete
  config.json                the run's config
  weights.safetensors        averaged parameters and batch statistics, "params/block_0/…"
  vocab.txt                  the tokenizer's vocabulary
  text_projection.safetensors   of the text, if `config.text.projection` is not 0
  README.md                  the model card
  metrics.jsonl              results of `evaluate` on the folder, if any; not part of the model
and, for use without this package:
  program.stablehlo          a program for CPUs, GPUs and TPUs, see `program.py`
  text_encoder.safetensors   the text encoder's weights
  generate.py                generates images with them; needs only JAX, NumPy and safetensors
  wordpiece.py               its tokenizer
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xmc_jax.errors import UserError, reason
from xmc_jax.files import ensure_writable, write_whole, writing
from xmc_jax.run.environment import installed_versions
from xmc_jax.run.folder import metrics_path, text_projection_path
from xmc_jax.types import PyTree

FORMAT = 1
DTYPES = ("float32", "float16")
WEIGHTS, VOCABULARY, CARD = "weights.safetensors", "vocab.txt", "README.md"
PROJECTION = text_projection_path("").name
PROGRAM, TEXT_WEIGHTS = "program.stablehlo", "text_encoder.safetensors"
SCRIPT, TOKENIZER = "generate.py", "wordpiece.py"
_PACKAGES = ("xmc-jax", "jax", "flax", "keras-hub", "numpy")
_AGAIN = "export the model again"


def manifest_path(folder: epath.PathLike) -> epath.Path:
    """The path of ``model.json``."""
    return epath.Path(folder).expanduser() / "model.json"


def is_exported(folder: epath.PathLike) -> bool:
    """Whether the folder holds a complete exported model."""
    return manifest_path(folder).exists()


def demo_folder() -> epath.Path:
    """The folder of the model that comes with the package.

    Raises:
      UserError: the package was installed without it.
    """
    folder = epath.Path(__file__).parents[1] / "demo"
    if not is_exported(folder):
        raise UserError(
            f"there is no demo model in {folder}; export a run there: python -m xmc_jax.export "
            f"--workdir=runs/one_shape_32 --out={folder} --dtype=float16 --noprogram"
        )
    return folder


def to_storage(ema: PyTree, dtype: str) -> dict[str, np.ndarray]:
    """The generator's arrays by name (``params/block_0/conv_1/kernel``), in their storage type.

    Batch statistics stay float32: they are few, and variances exceed the range of float16.

    Raises:
      UserError: the type is unknown, or a parameter exceeds its range.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} is not one of {', '.join(DTYPES)}")
    arrays = {}
    for name, x in flatten_dict(jax.device_get(ema), sep="/").items():
        with np.errstate(over="ignore"):  # The check below finds it.
            stored = x.astype(dtype) if name.startswith("params/") else x
        if not np.all(np.isfinite(stored)):
            raise UserError(
                f"{name} has values that {dtype} cannot hold; export with --dtype=float32"
            )
        arrays[name] = stored
    return arrays


def to_safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The contents of a safetensors file."""
    return save({name: np.ascontiguousarray(x) for name, x in arrays.items()})


def open_folder(folder: epath.PathLike) -> epath.Path:
    """Creates the folder to write a model to, if missing. An older model in it stays.

    Raises:
      UserError: the folder holds something else or cannot be written.
    """
    folder = epath.Path(folder).expanduser()
    if folder.is_dir() and any(folder.iterdir()) and not is_exported(folder):
        raise UserError(f"{folder} is not empty and holds no exported model; choose another folder")
    ensure_writable(folder)
    return folder


def write(folder: epath.Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Writes a model; an older one in the folder is replaced.

    Args:
      folder: From `open_folder`.
      manifest: Fields of ``model.json``, without format, versions and checksums.
      files: Contents by file name. Checksums are stored for all but the model card.

    Raises:
      UserError: the folder cannot be written.
    """
    manifest = {
        "format": FORMAT,
        **manifest,
        "versions": installed_versions(_PACKAGES),
        "sha256": {name: _sha256(data) for name, data in files.items() if name != CARD},
    }
    with writing(folder, then=_AGAIN):
        # Without model.json the folder is no model while its files change. Metrics are those of the
        # older model.
        program = (folder / name for name in (PROGRAM, TEXT_WEIGHTS, SCRIPT, TOKENIZER))
        for path in (manifest_path(folder), metrics_path(folder), *program):
            path.unlink(missing_ok=True)
    for name, data in files.items():
        write_whole(folder / name, data, then=_AGAIN)
    text = json.dumps(manifest, indent=2) + "\n"
    write_whole(manifest_path(folder), text.encode(), then=_AGAIN)


def read(folder: epath.PathLike) -> tuple[int, PyTree, str]:
    """Reads a model and verifies the files that generating images needs.

    Returns:
      The training step, averaged parameters and statistics in their storage type, and the
      `text_encoder.fingerprint` of the text encoder.

    Raises:
      UserError: a newer version wrote the folder, or a file is missing or has been changed.
    """
    path, folder = manifest_path(folder), epath.Path(folder).expanduser()
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{path} has format {manifest['format']}, and this version of xmc_jax reads "
                f"{FORMAT}; install version {manifest['versions']['xmc-jax']}"
            )
        projection = [PROJECTION] if PROJECTION in manifest["sha256"] else []
        for name in ("config.json", VOCABULARY, *projection, WEIGHTS):
            data = _read_verified(folder / name, manifest["sha256"][name])
        ema = unflatten_dict(load(data), sep="/")
        return manifest["step"], ema, manifest["text_encoder"]["fingerprint"]
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}); {_AGAIN}") from error


def _read_verified(path: epath.Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; copy it again") from error
    if _sha256(data) != sha256:
        raise UserError(
            f"{path} is not the file that was exported (its sha256 differs); copy it or export the "
            "model again"
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
