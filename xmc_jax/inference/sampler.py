"""Drawing any number of captions with a few compiled programs.

The picture of a caption depends on the weights, its tokens, the seed and its index alone: not on
the other captions, on the batch size or on the number of devices (but for the rounding of sums,
which may move a pixel by one level).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt8

from xmc_jax.experiment import Experiment
from xmc_jax.parallel.sharding import batch_sharding, make_whole, put


def batch_sizes(largest: int, num_devices: int) -> tuple[int, ...]:
    """The sizes that programs are compiled for, ascending: at most log4 of the largest.

    Each is a quarter of the next, rounded up to fill all devices; captions left over from full
    batches are padded to the smallest that holds them.
    """
    sizes = [-(-largest // num_devices) * num_devices]
    while sizes[0] > num_devices:
        quarter = -(-sizes[0] // (4 * num_devices)) * num_devices
        sizes.insert(0, quarter)
    return tuple(sizes)


class Sampler:
    """Draws captions in batches; never compiles for a size outside `batch_sizes`.

    Args:
      experiment: What to draw with.
      batch_size: Captions a device program takes at most; rounded up to fill all devices.
    """

    def __init__(self, experiment: Experiment, batch_size: int):
        self._sizes = batch_sizes(batch_size, experiment.mesh.size)
        self._mesh = experiment.mesh
        self._step = experiment.jit_sample_step()
        self._text_params = experiment.frozen.text
        self._z_dim = experiment.config.model.z_dim

    def __call__(
        self, ema, tokens: Int32[np.ndarray, "n t"], *, seed: int, first_index: int = 0
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Draws one image a caption.

        Args:
          ema: Averaged parameters and statistics of the generator, as training has them.
          tokens: Token ids of the captions.
          seed: Chooses the noise, together with each caption's index.
          first_index: Index of the first caption.

        Returns:
          Pixels, 0..255, on the host.
        """
        images = []
        ema, split = make_whole(ema, self._mesh), batch_sharding(self._mesh)
        for start in range(0, len(tokens), self._sizes[-1]):
            part = tokens[start : start + self._sizes[-1]]
            size = next(size for size in self._sizes if size >= len(part))
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            z = make_noise(size, self._z_dim, seed, first_index + start)
            drawn = self._step(ema, self._text_params, *put((padded, z), split))
            images.append(np.asarray(drawn)[: len(part)])
        return np.concatenate(images)


@functools.partial(jax.jit, static_argnums=(0, 1))
def make_noise(
    count: int, z_dim: int, seed: int | Int[Array, ""], first_index: int | Int[Array, ""]
) -> Float[Array, "n z"]:
    """Standard normal noise; row i depends on the seed and on ``first_index + i`` alone."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(count))
    return jax.vmap(lambda k: jax.random.normal(k, (z_dim,)))(keys)
