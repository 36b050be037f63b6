"""Generates images for any number of captions with a few compiled programs.

The image of a caption depends only on the weights, the tokens, the seed and the index of the
caption. The other captions, the batch size and the number of devices have no effect, except for the
rounding of sums, which may change a pixel by one level.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt8

from xmc_jax.experiment import Experiment
from xmc_jax.images import to_uint8
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


def batch_sizes(largest: int, num_devices: int) -> tuple[int, ...]:
    """The sizes for which programs are compiled, ascending; at most log4 of the largest.

    Each size is a quarter of the next, rounded up to a multiple of the devices. Captions left over
    from full batches are padded to the smallest size that holds them.
    """
    sizes = [-(-largest // num_devices) * num_devices]
    while sizes[0] > num_devices:
        quarter = -(-sizes[0] // (4 * num_devices)) * num_devices
        sizes.insert(0, quarter)
    return tuple(sizes)


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
        images = []
        ema, split = make_whole(ema, self._mesh), batch_sharding(self._mesh)
        for start in range(0, len(tokens), self._sizes[-1]):
            part = tokens[start : start + self._sizes[-1]]
            size = next(size for size in self._sizes if size >= len(part))
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            z = make_noise(size, self._z_dim, seed, first_index + start)
            generated = self._step(ema, self._text_params, *put((padded, z), split))
            images.append(np.asarray(generated)[: len(part)])
        return np.concatenate(images)


@functools.partial(jax.jit, static_argnums=(0, 1))
def make_noise(
    count: int, z_dim: int, seed: int | Int[Array, ""], first_index: int | Int[Array, ""]
) -> Float[Array, "n z"]:
    """Standard normal noise. Row i depends only on the seed and on ``first_index + i``."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(count))
    return jax.vmap(lambda k: jax.random.normal(k, (z_dim,)))(keys)
