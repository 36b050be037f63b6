"""3x3 convolutions that double or halve the resolution, with less than half the multiplications.

Upsampling by nearest neighbour followed by a 3x3 convolution equals four 2x2 convolutions of the
small map, one for each parity of row and column. A 3x3 convolution followed by a 2x2 mean equals
one 4x4 convolution with stride 2. Either needs 2.25 times fewer multiplications than the two steps
it replaces. Both are built from the linear maps `_shrink` and `_enlarge`, which are transposes of
each other for the same 4x4 kernel, made from the 3x3 kernel by `_spread`.

The gradients are written by hand because automatic differentiation would leave the choice of
algorithm to XLA, which on CPUs uses slow loops for dilated and even-sized convolutions
(benchmarks/resampling.py).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xmc_jax.models.ops import convolution
from xmc_jax.models.ops.platforms import by_platform

# Small maps have many channels. Below this side of the smaller map, spreading the kernel takes more
# time on CPUs than the merged convolution saves (benchmarks/resampling.py).
_SMALLEST_MERGED_ON_CPU = 8


def upsample_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c n"]
) -> Float[Array, "b h2 w2 n"]:
    """`upsample`, then `convolve`."""
    faster = _merge_if_faster(
        lambda x, kernel: convolution.convolve(upsample(x), kernel),
        lambda x, kernel: _enlarge(x, convolution.transpose_kernel(_spread(kernel, x.dtype))),
        min(x.shape[1:3]),
    )
    return faster(x, kernel)


def convolve_pool(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c n"]
) -> Float[Array, "b h2 w2 n"]:
    """`convolve`, then `average_pool`; the sides of `x` must be even."""
    faster = _merge_if_faster(
        lambda x, kernel: average_pool(convolution.convolve(x, kernel)),
        lambda x, kernel: _shrink(x, _spread(kernel, x.dtype, scale=0.25)),
        min(x.shape[1:3]) // 2,
    )
    return faster(x, kernel)


def _merge_if_faster(in_two_steps: Callable, merged: Callable, small_side: int) -> Callable:
    """The faster implementation on each platform, for a side of the smaller map."""
    if small_side >= _SMALLEST_MERGED_ON_CPU:
        return merged
    return by_platform(merged, cpu=in_two_steps)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x upsampling by nearest neighbour."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, h * 2, w * 2, c)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The mean of every 2x2 square."""
    b, h, w, c = x.shape
    if c < convolution.FEW_CHANNELS:
        # On TPUs XLA would pad the channels of each pixel, and each pair of pixels, to 128 numbers.
        return sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def _spread(
    kernel: Float[Array, "3 3 c n"], dtype: DTypeLike, *, scale: float = 1.0
) -> Float[Array, "4 4 c n"]:
    """The kernel convolved with a 2x2 square of `scale`, in a compute type.

    In bfloat16 the kernel is rounded before it is summed, because float32 sums of the largest
    kernels would take hundreds of megabytes. The error is at most 1.6 times that of the two steps.
    """
    forms = (_spread_by_product, _spread_by_shifts)
    default, cuda = (functools.partial(form, dtype=dtype, scale=scale) for form in forms)
    return by_platform(default, cuda=cuda)(kernel)


def _spread_by_product(kernel: Array, dtype: DTypeLike, scale: float) -> Array:
    # On CPUs this and its gradient are much faster than sums of shifted kernels.
    line = np.eye(4, 3) + np.eye(4, 3, -1)
    square = jnp.asarray(scale * np.kron(line, line), dtype)
    flat = convolution.prepare_kernel(kernel, dtype).reshape(9, -1)
    spread = jnp.matmul(square, flat, precision=jax.lax.Precision.HIGHEST)
    return spread.reshape(4, 4, *kernel.shape[2:])


def _spread_by_shifts(kernel: Array, dtype: DTypeLike, scale: float) -> Array:
    # On GPUs XLA would merge the products of all layers into one, and copy their kernels into and
    # out of a common array for it.
    kernel = convolution.prepare_kernel(scale * kernel, dtype).astype(jnp.float32)
    for axis in (0, 1):
        zeros = jnp.zeros_like(jax.lax.slice_in_dim(kernel, 0, 1, axis=axis))
        shifted = (jnp.concatenate(pair, axis) for pair in ((zeros, kernel), (kernel, zeros)))
        kernel = jnp.add(*shifted)
    return kernel.astype(dtype)


def _stride_2(x: Array, kernel: Array) -> Array:
    return convolution.general_convolution(
        x, kernel, window_strides=(2, 2), padding=((1, 1), (1, 1))
    )


def _kernel_gradient(
    x: Float[Array, "b h2 w2 c"], kernel: Float[Array, "4 4 c n"], g: Float[Array, "b h w n"]
) -> Float[Array, "4 4 c n"]:
    """The gradient of `_stride_2` with respect to its kernel."""
    if min(g.shape[1:3]) > 4:
        return _kernel_gradient_as_convolution(x, kernel, g)
    # On the smallest maps XLA on GPUs would compile this to a convolution that takes the thousands
    # of channels as the batch, and the few images as channels.
    return jax.lax.platform_dependent(
        x, kernel, g, cuda=_kernel_gradient_as_products, default=_kernel_gradient_as_convolution
    )


def _kernel_gradient_as_convolution(x: Array, kernel: Array, g: Array) -> Array:
    return jax.linear_transpose(lambda k: _stride_2(x, k), kernel)(g)[0]


def _kernel_gradient_as_products(x: Array, kernel: Array, g: Array) -> Array:
    b, h, w, n = g.shape
    c = x.shape[-1]
    row = 2 * w + 2
    taps = np.add.outer(row * np.arange(4), np.arange(4)).ravel()
    corners = np.add.outer(2 * row * np.arange(h), 2 * np.arange(w)).ravel()
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # The inputs of every tap of the kernel, `[16, b, h * w, c]`. Concatenating shifted maps would
    # take several times as long as one gather of the pixels of all images.
    inputs = jax.lax.gather(
        padded.reshape(b, (2 * h + 2) * row, c),
        np.add.outer(taps, corners)[..., None],
        jax.lax.GatherDimensionNumbers(
            offset_dims=(1, 3), collapsed_slice_dims=(1,), start_index_map=(1,)
        ),
        slice_sizes=(b, 1, c),
        mode="promise_in_bounds",
    )
    inputs, g = inputs.reshape(16, -1, c), g.reshape(-1, n)
    return jnp.einsum("kmc,mn->kcn", inputs, g).reshape(kernel.shape)


@jax.custom_vjp
def _shrink(x: Float[Array, "b h2 w2 c"], kernel: Float[Array, "4 4 c n"]) -> Array:
    """From ``[b, 2h, 2w, c]`` to ``[b, h, w, n]``."""
    return _stride_2(x, kernel)


def _shrink_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return _enlarge(g, kernel), _kernel_gradient(x, kernel, g)


@jax.custom_vjp
def _enlarge(x: Float[Array, "b h w n"], kernel: Float[Array, "4 4 c n"]) -> Array:
    """From ``[b, h, w, n]`` to ``[b, 2h, 2w, c]``: the transpose of `_shrink`."""
    return jax.lax.platform_dependent(
        x, kernel, cpu=_enlarge_by_corners, default=_enlarge_by_transposition
    )


def _enlarge_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return _shrink(g, kernel), _kernel_gradient(g, kernel, x)


_shrink.defvjp(lambda x, kernel: (_shrink(x, kernel), (x, kernel)), _shrink_backward)
_enlarge.defvjp(lambda x, kernel: (_enlarge(x, kernel), (x, kernel)), _enlarge_backward)


def _enlarge_by_transposition(x: Array, kernel: Array) -> Array:
    # The gradient of a convolution with stride 2, which accelerators' libraries support. On GPUs
    # XLA recognises it by the reversal of the kernel just before the product. Without the reversal
    # it would fill the map with zeros and convolve at the large resolution.
    b, h, w, _ = x.shape
    large = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, kernel.shape[2]), x.dtype)
    return jax.linear_transpose(lambda y: _stride_2(y, kernel), large)(x)[0]


def _enlarge_by_corners(x: Array, kernel: Array) -> Array:
    # One dense 2x2 convolution. The four pixels of the large map that meet at a corner of the small
    # map depend on the same 2x2 window of it, each through its own 2x2 kernel. One convolution
    # gives all four as channels, and a transposition puts them in their places.
    b, h, w, n = x.shape
    c = kernel.shape[2]
    taps = kernel.reshape(2, 2, 2, 2, c, n)[::-1, :, ::-1]  # Taps and pixels, along h and w.
    corners = convolution.general_convolution(
        x, taps.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, n, 4 * c), padding=((1, 1), (1, 1))
    )
    pixels = corners.reshape(b, h + 1, w + 1, 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(b, 2 * h + 2, 2 * w + 2, c)[:, 1:-1, 1:-1]
