"""Generates images with the program of an exported model: without Flax, Keras and TensorFlow.

`program_export.py` writes the program. Its weights are arguments, which lie in safetensors files:
in the folder or, those of a packaged text encoder, in its wheel.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int32, UInt8
from safetensors.numpy import load

from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.errors import UserError, reason
from xmc_jax.frozen.wheels import text_encoder_folder
from xmc_jax.inference import exported
from xmc_jax.inference.arrays import read_arrays
from xmc_jax.inference.batches import batch_sizes, check_request, generate_in_batches

WHEEL_FILE = "model.safetensors"  # The weights of a packaged text encoder, in its folder.

# What XLA calls by name may read and write any memory; this one only checks the batch size.
_FOREIGN_CALL = re.compile(r"custom_call(?! @shape_assertion\()[^(]*")


class ProgramError(Exception):
    """This version of JAX cannot run the program."""


class ProgramModel:
    """An exported model that runs its program, on one device.

    Args:
      folder: Of the exported model.
      manifest: From `exported.read_manifest`; `has_program` is true of it.
      batch_size: See `loading.load`.
      load_networks: Loads the same model as a `model.TrainedModel`.

    Attributes:
      step: Training step of the weights.
      tokenizer: Of its captions.

    Raises:
      UserError: A file is missing or damaged, the text encoder is not the one of the training, or
        the program calls anything outside of it.
      ProgramError: The program is of a version that this JAX does not read.
    """

    def __init__(
        self,
        folder: epath.Path,
        manifest: Mapping[str, Any],
        *,
        batch_size: int,
        load_networks: Callable[[], Any],
    ):
        self._load_networks, self._sizes = load_networks, batch_sizes(batch_size, num_devices=1)
        exported.read_verified(folder, manifest, exported.VOCABULARY)
        program = exported.read_verified(folder, manifest, exported.PROGRAM)
        weights = read_arrays(folder, manifest, exported.WEIGHTS)
        with exported.damage_named(folder):
            self.step, self._z_dim = manifest["step"], manifest["z_dim"]
            self.tokenizer = Tokenizer(
                folder / exported.VOCABULARY,
                manifest["num_tokens"],
                manifest["text_encoder"]["lowercase"],
            )
            text_weights = _read_text_weights(folder, manifest)
        self._weights = jax.device_put((weights, text_weights))
        try:
            exported_program = jax.export.deserialize(bytearray(program))
            foreign = _FOREIGN_CALL.search(exported_program.mlir_module())
            if foreign:
                raise UserError(
                    f"{folder / exported.PROGRAM} calls what is outside of it ({foreign[0][:60]!r})"
                    ", and no export does that; do not trust this model"
                )
            self._step = jax.jit(exported_program.call)
            z = jax.ShapeDtypeStruct((1, self._z_dim), np.float32)
            self._step.lower(*self._weights, self.tokenizer(["x"]), z)
        except UserError:
            raise
        except Exception as error:  # Of many types: of JAX, of its compiler, of flatbuffers.
            raise ProgramError(reason(error)) from error

    def generate(
        self, captions: Sequence[str], *, seed: int = 0, num_images: int = 1
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """See `model.TrainedModel.generate`."""
        check_request(captions, seed, num_images)
        tokens = self.tokenizer(captions).repeat(num_images, axis=0)
        sizes, z_dim = self._sizes, self._z_dim
        return generate_in_batches(self._generate, tokens, sizes, z_dim=z_dim, seed=seed)

    @functools.cached_property
    def networks(self):
        """The same model as a `model.TrainedModel`, for what needs more than images."""
        return self._load_networks()

    def _generate(
        self, tokens: Int32[np.ndarray, "b t"], z: Float[Array, "b z"]
    ) -> UInt8[Array, "b h w 3"]:
        return self._step(*self._weights, tokens, z)


def has_program(manifest: Mapping[str, Any]) -> bool:
    """Whether an exported model has a program, with all its weights within reach."""
    files = manifest["sha256"]
    return exported.PROGRAM in files and (
        exported.TEXT_WEIGHTS in files or "arrays" in manifest["text_encoder"]
    )


def _read_text_weights(folder: epath.Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The program's second argument."""
    if exported.TEXT_WEIGHTS in manifest["sha256"]:
        return read_arrays(folder, manifest, exported.TEXT_WEIGHTS)
    encoder = manifest["text_encoder"]
    file = text_encoder_folder(encoder["name"], needed_by=str(folder)) / WHEEL_FILE
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {reason(error)}; install its wheel again") from error
    if (found := exported.digest(data)) != encoder["sha256"]:
        raise UserError(
            f"{file} is not the text encoder that the model in {folder} was trained with (its "
            f"sha256 is {found[:12]}, not {encoder['sha256'][:12]}); install that one"
        )
    sources = {WHEEL_FILE: load(data)}
    if exported.PROJECTION in manifest["sha256"]:
        sources[exported.PROJECTION] = read_arrays(folder, manifest, exported.PROJECTION)
    return {
        name: np.ascontiguousarray(arrange(sources[source][key], shape, transposed))
        for name, (source, key, shape, transposed) in encoder["arrays"].items()
    }


def arrange(x: np.ndarray, shape: Sequence[int], transposed: bool) -> np.ndarray:
    """An array of a file as the program takes it: PyTorch's kernels turned, heads apart."""
    return (x.T if transposed else x).reshape(shape)
