"""Convolutions that change the resolution, merged with resampling or separate from it.

    python -m benchmarks.resampling                                       # the CPU setting
    python -m benchmarks.resampling --width=96 --batch_size=32 --dtype=bfloat16

Times value and gradients for every resolution of the networks: enlarge and convolve as in the
generator's blocks, convolve and pool as in the discriminator's. "merged" is the library's form with
its own gradients, "plain" is its fallback for small maps, and "automatic" is the merged form with
the gradients that JAX derives.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measure
from xmc_jax.models.discriminator import CHANNEL_MULTIPLIERS as D_MULTIPLIERS
from xmc_jax.models.generator import CHANNEL_MULTIPLIERS as G_MULTIPLIERS
from xmc_jax.models.ops import resampling
from xmc_jax.models.ops.convolution import convolve, transpose_kernel

RESOLUTION = flags.DEFINE_integer("resolution", 128, "Side of the images.")
WIDTH = flags.DEFINE_integer("width", 16, "Base channels; 96 in the paper.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per batch.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the convolutions.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each side.", lower_bound=1)


def enlarge_plain(x, kernel):
    return convolve(resampling.upsample(x), kernel)


def enlarge_automatic(x, kernel):
    kernel = transpose_kernel(resampling._spread(kernel, x.dtype))
    return jax.lax.platform_dependent(
        x, kernel, cpu=resampling._enlarge_by_corners, default=resampling._enlarge_by_transposition
    )


def pool_plain(x, kernel):
    return resampling.average_pool(convolve(x, kernel))


def pool_automatic(x, kernel):
    return resampling._stride_2(x, resampling._spread(kernel, x.dtype, scale=0.25))


def enlarge_merged(x, kernel):
    return resampling._enlarge(x, transpose_kernel(resampling._spread(kernel, x.dtype)))


def pool_merged(x, kernel):
    return resampling._shrink(x, resampling._spread(kernel, x.dtype, scale=0.25))


ENLARGE = {"merged": enlarge_merged, "plain": enlarge_plain, "automatic": enlarge_automatic}
POOL = {"merged": pool_merged, "plain": pool_plain, "automatic": pool_automatic}


def layers():
    """``(name, forms, side, channels in, channels out)`` of every such layer of the networks."""
    side, channels = 4, G_MULTIPLIERS[RESOLUTION.value][0]
    for multiplier in G_MULTIPLIERS[RESOLUTION.value]:
        yield f"enlarge {side} to {2 * side}", ENLARGE, side, channels, multiplier
        side, channels = 2 * side, multiplier
    for multiplier in (1, *D_MULTIPLIERS[RESOLUTION.value][:-1]):
        yield f"pool {side} to {side // 2}", POOL, side, multiplier, multiplier
        side //= 2


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    rng, dtype, rows = np.random.default_rng(0), jnp.dtype(DTYPE.value), []
    for name, forms, side, channels_in, channels_out in layers():
        channels_in, channels_out = channels_in * WIDTH.value, channels_out * WIDTH.value
        x = jnp.asarray(rng.normal(size=(BATCH_SIZE.value, side, side, channels_in)), dtype)
        kernel = jnp.float32(rng.normal(size=(3, 3, channels_in, channels_out)) / 100)

        def value_and_gradients(x, kernel, form):
            y, pull_back = jax.vjp(form, x, kernel)
            return y, pull_back(y)

        programs = [
            measure.compile_program(
                label, functools.partial(value_and_gradients, form=form), x, kernel
            )
            for label, form in forms.items()
        ]
        runs = [functools.partial(program.run, x, kernel) for program in programs]
        seconds = measure.time_in_turns(runs, REPEATS.value)
        layer = f"{name}, {channels_in} to {channels_out}"
        rows.append((layer, *(s * 1e3 for s in seconds), f"{seconds[1] / seconds[0]:.2f}x"))
    measure.print_table(("ms", *ENLARGE, "plain / merged"), rows)


if __name__ == "__main__":
    app.run(main)
