"""3x3 and 1x1 convolutions, each in the fastest form for its platform.

The forms were chosen by measurement: on CPUs with benchmarks/resampling.py, on GPUs with profiles
of the whole training step (benchmarks/RESULTS.md).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xmc_jax.models.ops.platforms import barrier_on_gpus, by_platform, default_layout_on_gpus

# Fewer channels than this mean an RGB image. What suits feature maps wastes time on GPUs and memory
# on TPUs there.
FEW_CHANNELS = 8
_CHANNEL_MULTIPLE = 32  # Convolutions on GPUs are fastest with a multiple of this many channels.


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c n"]
) -> Float[Array, "b h w n"]:
    """Convolution with stride 1 and same padding, in the type of `x`, by a 1x1 or 3x3 kernel."""
    if kernel.shape[:2] == (1, 1):
        # A matrix product compiles to faster code than a 1x1 convolution.
        return x @ kernel[0, 0].astype(x.dtype)
    if min(kernel.shape[2:]) < FEW_CHANNELS:
        return by_platform(_convolve_directly, cuda=_convolve_few_channels)(x, kernel)
    return _convolve_directly(x, kernel)


def general_convolution(x: Array, kernel: Array, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` of NHWC maps and HWIO kernels, by default with stride 1.

    Both have the same type. Of the options, `padding` is required.
    """
    options = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    return jax.lax.conv_general_dilated(x, kernel, **options)


def transpose_kernel(kernel: Float[Array, "k k c n"]) -> Float[Array, "k k n c"]:
    """The kernel of the transposed convolution."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def prepare_kernel(kernel: Float[Array, "k k c n"], dtype: DTypeLike) -> Float[Array, "k k c n"]:
    """Casts a kernel to the compute type of a convolution.

    On GPUs, convolutions take kernels and return their gradients in a memory layout of their own.
    XLA would choose this layout for everything else that is done to a kernel too, and the optimizer
    would read and write every array twice to reorder it. Therefore gradients are brought back to
    the default layout here.
    """
    # On GPUs XLA would otherwise reorder and spread a kernel in one pass, which is slower than two.
    return barrier_on_gpus(kernel.astype(dtype))


def _prepare_kernel_backward(dtype: DTypeLike, _: None, g: Array) -> tuple[Array]:
    return (default_layout_on_gpus(g).astype(jnp.float32),)


prepare_kernel.defvjp(
    lambda kernel, dtype: (prepare_kernel(kernel, dtype), None), _prepare_kernel_backward
)


def _convolve_directly(x: Array, kernel: Array) -> Array:
    return general_convolution(x, prepare_kernel(kernel, x.dtype), padding="SAME")


@jax.custom_vjp
def _convolve_few_channels(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c n"]
) -> Float[Array, "b h w n"]:
    """The form for GPUs, whose libraries are slow for few channels."""
    convolve = _from_few_channels if kernel.shape[2] <= kernel.shape[3] else _to_few_channels
    return convolve(x, kernel.astype(x.dtype))


def _from_few_channels(x: Array, kernel: Array) -> Array:
    """The product of every 3x3 patch with the kernel."""
    patches = _patches(x)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    matrix = jnp.pad(matrix, ((0, patches.shape[-1] - len(matrix)), (0, 0)))
    # As a 1x1 convolution, with which XLA fuses a bias and a ReLU.
    return general_convolution(patches, matrix[None, None], padding="VALID")


def _to_few_channels(x: Array, kernel: Array) -> Array:
    """The products of every position with all taps of the kernel, shifted and summed.

    In bfloat16 the products are rounded before they are summed. The error is at most 1.5 times that
    of a convolution.
    """
    _, h, w, c = x.shape
    n = kernel.shape[-1]
    matrix = kernel.swapaxes(2, 3).reshape(9 * n, c)
    matrix = jnp.pad(matrix, ((0, -len(matrix) % _CHANNEL_MULTIPLE), (0, 0)))
    products = barrier_on_gpus(jnp.einsum("kc,bhwc->kbhw", matrix, x))
    products = jnp.pad(products, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = jnp.zeros((), jnp.float32)
    for tap, (i, j) in enumerate(np.ndindex(3, 3)):
        total += products[tap * n : (tap + 1) * n, :, i : i + h, j : j + w]
    return jnp.moveaxis(total, 0, -1).astype(x.dtype)


def _few_channels_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    to_few = kernel.shape[2] > kernel.shape[3]
    few, many = (g, x) if to_few else (x, g)
    gradient = jnp.einsum("bhwk,bhwn->kn", _patches(few), many, preferred_element_type=jnp.float32)
    d_kernel = gradient[: 9 * few.shape[-1]].reshape(3, 3, few.shape[-1], many.shape[-1])
    d_kernel = transpose_kernel(d_kernel) if to_few else d_kernel
    d_x = _convolve_few_channels(g, transpose_kernel(kernel))
    return d_x, d_kernel.astype(kernel.dtype)


_convolve_few_channels.defvjp(
    lambda x, kernel: (_convolve_few_channels(x, kernel), (x, kernel)), _few_channels_backward
)


def _patches(x: Float[Array, "b h w c"]) -> Float[Array, "b h w k"]:
    """The 3x3 patch around every position, with zeros beyond the edges.

    Padded to a number of channels that suits GPUs; the additional channels hold arbitrary pixels,
    and must be multiplied by zeros. A single gather of numbers takes GPUs a third of the time of
    concatenating nine shifted maps.
    """
    b, h, w, c = x.shape
    row = (w + 2) * c
    number = jnp.arange(9 * c + -9 * c % _CHANNEL_MULTIPLE)
    in_patch = jnp.where(number < 9 * c, number // (3 * c) * row + number % (3 * c), 0)
    corners = jnp.add.outer(row * jnp.arange(h), c * jnp.arange(w))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, (h + 2) * row)
    return padded.at[:, jnp.add.outer(corners, in_patch)].get(mode="promise_in_bounds")
