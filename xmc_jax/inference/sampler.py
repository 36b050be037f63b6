"""Generates images with the networks of an experiment, on all devices."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from xmc_jax.experiment import Experiment
from xmc_jax.images import to_uint8
from xmc_jax.inference.batches import batch_sizes, generate_in_batches
from xmc_jax.parallel.sharding import batch_sharding, make_whole, put, replicated
from xmc_jax.types import EncodeText, PyTree


def make_sample_step(
    *, generator: nn.Module, encode_text: EncodeText
) -> Callable[[PyTree, PyTree, Array, Array], UInt8[Array, "b h w 3"]]:
    """Builds ``sample(ema, text_params, tokens, z) -> images``, 8-bit pixels.

    The generator uses the moving averages of both its parameters and its running statistics.
    """

    def sample(
        ema: PyTree, text_params: PyTree, tokens: Int32[Array, "b t"], z: Float[Array, "b z"]
    ) -> UInt8[Array, "b h w 3"]:
        text = encode_text(text_params, tokens)
        return to_uint8(generator.apply(ema, z, *text, train=False))

    return sample


class Sampler:
    """Generates images in batches, and compiles only for `batch_sizes`.

    Args:
      experiment: The networks, and the devices.
      batch_size: Largest number of captions in one call of a compiled program; rounded up to a
        multiple of the devices.
    """

    def __init__(self, experiment: Experiment, batch_size: int):
        self._mesh = experiment.mesh
        self._sizes = batch_sizes(batch_size, self._mesh.size)
        self._text_params = experiment.frozen.text
        self._z_dim = experiment.generator.z_dim
        encode_text = experiment.text_encoder.apply
        step = make_sample_step(generator=experiment.generator, encode_text=encode_text)
        whole, split = replicated(self._mesh), batch_sharding(self._mesh)
        self._step = jax.jit(step, in_shardings=(whole, whole, split, split), out_shardings=whole)

    def __call__(
        self, ema: PyTree, tokens: Int32[np.ndarray, "n t"], *, seed: int, first_index: int = 0
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Generates one image per caption: pixels, 0..255, on the host.

        The noise depends on the seed and on the index of the caption; the first caption has
        `first_index`. ``ema`` holds moving averages of the generator's parameters and statistics,
        see `TrainState`.
        """
        ema, split = make_whole(ema, self._mesh), batch_sharding(self._mesh)

        def generate(tokens, z):
            return self._step(ema, self._text_params, *put((tokens, z), split))

        return generate_in_batches(
            generate, tokens, self._sizes, z_dim=self._z_dim, seed=seed, first_index=first_index
        )
