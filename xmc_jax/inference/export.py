"""From a run's checkpoint to the folder of an exported model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import load

from xmc_jax.data import wordpiece
from xmc_jax.errors import UserError
from xmc_jax.frozen.text_encoder import fingerprint
from xmc_jax.frozen.wheels import TEXT_ENCODERS, text_encoder_folder
from xmc_jax.inference import exported
from xmc_jax.inference.arrays import to_safetensors
from xmc_jax.inference.model import TrainedModel, load_networks
from xmc_jax.inference.model_card import write_card
from xmc_jax.inference.onnx.generator import build_generator
from xmc_jax.inference.onnx.graph import ensure_installed
from xmc_jax.inference.onnx.text_encoder import build_text_encoder
from xmc_jax.inference.program import WHEEL_FILE
from xmc_jax.inference.program_export import export_program, find_arrays, name_text_params
from xmc_jax.inference.web.page import build_page
from xmc_jax.inference.web.runtime import find_archive, read_runtime
from xmc_jax.run.folder import config_path, text_projection_path
from xmc_jax.run.records import read_metrics
from xmc_jax.types import PyTree


def export(
    workdir: epath.PathLike,
    out: epath.PathLike,
    *,
    step: int | None = None,
    dtype: str = "float32",
    standalone: bool = True,
    onnx: bool = False,
    web: bool = False,
    onnxruntime_web: epath.PathLike | None = None,
    address: str | None = None,
) -> None:
    """Exports a checkpoint of a run.

    Args:
      workdir: Folder of the run.
      out: Folder of the exported model; an older model in it is replaced.
      step: Which checkpoint; None for the newest.
      dtype: Storage type of parameters: ``"float32"``, or ``"float16"`` for half the size. Images
        are computed in float32 either way.
      standalone: Whether the folder also generates images without this package. It then contains
        the text encoder's weights.
      onnx: Whether to add text encoder and generator as files for ONNX Runtime. The generator is
        stored in `dtype`, the text encoder in float16.
      web: Whether to add a page that draws in a browser, see `web.page`. It needs these files.
      onnxruntime_web: Archive of ONNX Runtime for it; see `runtime.find_archive`.
      address: Where the model will be published, ``hf://USER/NAME``, for the model card.

    Raises:
      UserError: there is no such run or checkpoint, the folder cannot be written, the package onnx
        is needed and not installed, or ONNX Runtime for browsers cannot be had.
    """
    onnx = onnx or web
    if onnx:
        ensure_installed()
    archive = find_archive(onnxruntime_web) if web else None
    out = exported.open_folder(out)
    name = out.name or Path.cwd().name  # Of "."; a bucket has a name.
    model = load_networks(workdir, step=step)
    config, encoder = model.experiment.config, model.experiment.text_encoder
    weights = to_storage(model.ema, dtype)
    text_params = name_text_params(model.experiment.frozen.text)
    in_wheel = {} if standalone else _find_in_wheel(workdir, config, text_params)
    files = _read_or_make_files(
        model, workdir, weights, text_params, standalone=standalone, program=bool(in_wheel)
    )
    if onnx:
        files |= _make_onnx(model, weights)
    if archive is not None:
        files |= build_page(model, workdir, name=name, files=files | read_runtime(archive))
    card = write_card(
        model,
        name=(address or name).rpartition("/")[2],
        address=address,
        records=read_metrics(workdir),
        dtype=dtype,
        standalone=standalone,
        onnx=onnx,
        web=web,
    )
    manifest = {
        "step": model.step,
        "dtype": dtype,
        "num_tokens": config.text.num_tokens,
        "z_dim": config.model.z_dim,
        "text_encoder": {
            "name": config.text.encoder,
            "fingerprint": fingerprint(encoder),
            "lowercase": encoder.lowercase,
            **in_wheel,
        },
    }
    exported.write(out, manifest, {**files, exported.CARD: card.encode()})
    size = sum(map(len, files.values())) / 1e6
    print(f"exported step {model.step} of {workdir}: {size:.1f} MB in {out}; see its README.md")


def _read_or_make_files(
    model: TrainedModel,
    workdir: epath.PathLike,
    weights: Mapping[str, np.ndarray],
    text_params: Mapping[str, np.ndarray],
    *,
    standalone: bool,
    program: bool,
) -> dict[str, bytes]:
    """The contents of the model's files by name; `program`: whether one is of use without more."""
    files = {
        "config.json": config_path(workdir).read_bytes(),
        exported.WEIGHTS: to_safetensors(weights),
        exported.VOCABULARY: Path(model.experiment.text_encoder.vocabulary_file).read_bytes(),
    }
    if model.experiment.config.text.projection:
        files[exported.PROJECTION] = text_projection_path(workdir).read_bytes()
    if standalone or program:
        files[exported.PROGRAM] = export_program(model.experiment, weights)
    if standalone:
        files[exported.TEXT_WEIGHTS] = to_safetensors(text_params)
        # The script imports the tokenizer from its own folder, so it cannot be imported here.
        files[exported.SCRIPT] = Path(__file__).with_name("standalone.py").read_bytes()
        files[exported.TOKENIZER] = _read_tokenizer()
    return files


def _make_onnx(model: TrainedModel, weights: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The files for ONNX Runtime, and the tokenizer that they need, by name."""
    generator, encoder = model.experiment.generator, model.experiment.text_encoder
    return {
        exported.ONNX_GENERATOR: build_generator(generator, weights, encoder.width),
        exported.ONNX_TEXT_ENCODER: build_text_encoder(encoder),
        exported.TOKENIZER: _read_tokenizer(),
    }


def _read_tokenizer() -> bytes:
    return Path(wordpiece.__file__).read_bytes()


def _find_in_wheel(
    workdir: epath.PathLike, config: ConfigDict, text_params: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Where a program finds the weights of a packaged text encoder, for ``model.json``.

    Empty if the encoder is not packaged: without weights, a program is of no use.
    """
    if (name := config.text.encoder) not in TEXT_ENCODERS:
        return {}
    data = (text_encoder_folder(name, needed_by=name) / WHEEL_FILE).read_bytes()
    sources = {WHEEL_FILE: load(data)}
    if config.text.projection:
        sources[exported.PROJECTION] = load(text_projection_path(workdir).read_bytes())
    arrays = find_arrays(text_params, sources)
    return {"sha256": exported.digest(data), "arrays": arrays} if arrays else {}


def to_storage(ema: PyTree, dtype: str) -> dict[str, np.ndarray]:
    """The generator's arrays by name (``params/block_0/conv_1/kernel``), in their storage type.

    Batch statistics stay float32: they are few, and variances exceed the range of float16.

    Raises:
      UserError: the type is unknown, or a parameter exceeds its range.
    """
    if dtype not in exported.DTYPES:
        raise UserError(f"--dtype={dtype} is not one of {', '.join(exported.DTYPES)}")
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
