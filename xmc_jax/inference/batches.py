"""Any number of captions with programs of a few batch sizes.

The image of a caption depends only on the weights, the tokens, the seed and the index of the
caption. The other captions, the batch size and the number of devices have no effect, except for the
rounding of sums, which may change a pixel by one level.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt8

from xmc_jax.errors import UserError

# Makes one image of each row of tokens and of noise.
Generate = Callable[[Int32[np.ndarray, "b t"], Float[Array, "b z"]], UInt8[Array, "b h w 3"]]


def check_request(captions: Sequence[str], seed: int, num_images: int) -> None:
    """Raises UserError if images of captions cannot be generated as asked."""
    if isinstance(captions, str):
        raise UserError("captions is one string; give a list of them, e.g. [caption]")
    if not len(captions):
        raise UserError("no captions; give at least one")
    if num_images < 1:
        raise UserError(f"num_images={num_images} generates nothing; give 1 or more")
    if not -(2**31) <= seed < 2**31:
        raise UserError(f"seed={seed} is no int32; give one from {-(2**31)} to {2**31 - 1}")


def batch_sizes(largest: int, num_devices: int) -> tuple[int, ...]:
    """The sizes for which programs are compiled, ascending; at most log4 of the largest.

    Each size is a quarter of the next, rounded up to a multiple of the devices. Captions left over
    from full batches are padded to the smallest size that holds them.

    Raises:
      UserError: the largest size is less than 1.
    """
    if largest < 1:
        raise UserError(f"batch_size={largest} holds no caption; give 1 or more")
    sizes = [-(-largest // num_devices) * num_devices]
    while sizes[0] > num_devices:
        quarter = -(-sizes[0] // (4 * num_devices)) * num_devices
        sizes.insert(0, quarter)
    return tuple(sizes)


def generate_in_batches(
    generate: Generate,
    tokens: Int32[np.ndarray, "n t"],
    sizes: Sequence[int],
    *,
    z_dim: int,
    seed: int,
    first_index: int = 0,
) -> UInt8[np.ndarray, "n h w 3"]:
    """One image per caption: pixels, 0..255, on the host.

    Args:
      generate: Called with `sizes` of captions and noise only.
      tokens: Of the captions.
      sizes: From `batch_sizes`.
      z_dim: Length of the noise.
      seed: Of the noise, which also depends on the index of the caption.
      first_index: Index of the first caption.
    """
    images = []
    for start in range(0, len(tokens), sizes[-1]):
        part = tokens[start : start + sizes[-1]]
        size = next(size for size in sizes if size >= len(part))
        padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
        z = make_noise(size, z_dim, seed, first_index + start)
        images.append(np.asarray(generate(padded, z))[: len(part)])
    return np.concatenate(images)


@functools.partial(jax.jit, static_argnums=(0, 1))
def make_noise(
    count: int, z_dim: int, seed: int | Int[Array, ""], first_index: int | Int[Array, ""]
) -> Float[Array, "n z"]:
    """Standard normal noise. Row i depends only on the seed and on ``first_index + i``."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(count))
    return jax.vmap(lambda k: jax.random.normal(k, (z_dim,)))(keys)
