"""3x3 and 1x1 convolutions, in the form that serves each platform best.

What a form is good for was measured, on CPUs by benchmarks/resampling.py and on GPUs by profiles of
the whole step (benchmarks/RESULTS.md).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xmc_jax.models.ops.platforms import by_platform, hold_apart_on_gpus, in_order_on_gpus

# Below, maps are images: what serves other maps wastes time on GPUs and memory on TPUs.
FEW_CHANNELS = 8
_CHANNELS_AT_ONCE = 32  # GPUs' convolutions are at their best with a multiple of these.


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c n"]
) -> Float[Array, "b h w n"]:
    """Convolution with stride 1 and same padding, in the type of `x`; `k` is 1 or 3."""
    if kernel.shape[:2] == (1, 1):
        # Compilers have better matrix products than 1x1 convolutions.
        return x @ kernel[0, 0].astype(x.dtype)
    if min(kernel.shape[2:]) < FEW_CHANNELS:
        return by_platform(_convolve_at_once, cuda=_convolve_few_channels)(x, kernel)
    return _convolve_at_once(x, kernel)


def general_convolution(x: Array, kernel: Array, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` of NHWC maps and HWIO kernels; stride 1 if not told.

    Args:
      x: A map.
      kernel: In the type of `x`.
      **options: Of `jax.lax.conv_general_dilated`; `padding` is one that it needs.
    """
    options = {"window_strides": (1, 1)} | options
    return jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def transpose_kernel(kernel: Float[Array, "k k c n"]) -> Float[Array, "k k n c"]:
    """The kernel of the transposed convolution."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def prepare_kernel(kernel: Float[Array, "k k c n"], dtype: DTypeLike) -> Float[Array, "k k c n"]:
    """The kernel in a compute type, ready for a convolution.

    GPUs' convolutions want kernels, and give their gradients, in an order of axes of their own. The
    compiler would choose it for all that happens to a kernel, too: the optimizer would then read
    and write every array twice, to reorder it. So gradients leave here in the kernel's order.
    """
    # Held apart, or GPUs would reorder and spread a kernel in one pass, which is slower than two.
    return hold_apart_on_gpus(kernel.astype(dtype))


def _prepare_kernel_backward(dtype: DTypeLike, _: None, g: Array) -> tuple[Array]:
    return (in_order_on_gpus(g).astype(jnp.float32),)


prepare_kernel.defvjp(
    lambda kernel, dtype: (prepare_kernel(kernel, dtype), None), _prepare_kernel_backward
)


def _convolve_at_once(x: Array, kernel: Array) -> Array:
    return general_convolution(x, prepare_kernel(kernel, x.dtype), padding="SAME")


@jax.custom_vjp
def _convolve_few_channels(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c n"]
) -> Float[Array, "b h w n"]:
    """For GPUs, whose libraries have no good kernels for few channels."""
    form = _from_few_channels if kernel.shape[2] <= kernel.shape[3] else _to_few_channels
    return form(x, kernel.astype(x.dtype))


def _from_few_channels(x: Array, kernel: Array) -> Array:
    """The product of every position's square with the kernel."""
    squares = _squares(x)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    matrix = jnp.pad(matrix, ((0, squares.shape[-1] - len(matrix)), (0, 0)))
    # As a convolution 1x1, which takes a bias and a ReLU along.
    return general_convolution(squares, matrix[None, None], padding="VALID")


def _to_few_channels(x: Array, kernel: Array) -> Array:
    """The product of every position with the kernel, added up where it belongs.

    In bfloat16 it rounds before it sums, for an error at most 1.5 times that of a convolution.
    """
    _, h, w, c = x.shape
    n = kernel.shape[-1]
    matrix = kernel.swapaxes(2, 3).reshape(9 * n, c)
    matrix = jnp.pad(matrix, ((0, -len(matrix) % _CHANNELS_AT_ONCE), (0, 0)))
    products = hold_apart_on_gpus(jnp.einsum("kc,bhwc->kbhw", matrix, x))
    products = jnp.pad(products, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = jnp.zeros((), jnp.float32)
    for place, (i, j) in enumerate(np.ndindex(3, 3)):
        total += products[place * n : (place + 1) * n, :, i : i + h, j : j + w]
    return jnp.moveaxis(total, 0, -1).astype(x.dtype)


def _few_channels_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    few_are_given = kernel.shape[2] > kernel.shape[3]
    few, many = (g, x) if few_are_given else (x, g)
    gradient = jnp.einsum("bhwk,bhwn->kn", _squares(few), many, preferred_element_type=jnp.float32)
    d_kernel = gradient[: 9 * few.shape[-1]].reshape(3, 3, few.shape[-1], many.shape[-1])
    d_kernel = transpose_kernel(d_kernel) if few_are_given else d_kernel
    d_x = _convolve_few_channels(g, transpose_kernel(kernel))
    return d_x, d_kernel.astype(kernel.dtype)


_convolve_few_channels.defvjp(
    lambda x, kernel: (_convolve_few_channels(x, kernel), (x, kernel)), _few_channels_backward
)


def _squares(x: Float[Array, "b h w c"]) -> Float[Array, "b h w k"]:
    """The 3x3 square around every position, zeros beyond the edges.

    Filled up to a number of channels that suits GPUs; what stands there is to be multiplied by
    zeros. One gather of single numbers: joined from nine shifted maps they take GPUs three times as
    long.
    """
    b, h, w, c = x.shape
    row = (w + 2) * c
    number = jnp.arange(9 * c + -9 * c % _CHANNELS_AT_ONCE)
    in_square = jnp.where(number < 9 * c, number // (3 * c) * row + number % (3 * c), 0)
    corners = jnp.add.outer(row * jnp.arange(h), c * jnp.arange(w))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, (h + 2) * row)
    return padded.at[:, jnp.add.outer(corners, in_square)].get(mode="promise_in_bounds")
