"""3x3 convolutions that double or halve the resolution, at less than half the multiplications.

Nearest-neighbour enlargement followed by a 3x3 convolution gives all pixels of equal parity one 2x2
kernel on the small map; a 3x3 convolution followed by a 2x2 mean is one 4x4 convolution with stride
2. Either takes 2.25 times fewer multiplications than the two steps it stands for. Both are built
from one pair of linear maps, `_shrink` and `_enlarge`, each the transpose of the other for the same
kernel, spread from 3x3 to 4x4.

The gradients are spelled out because automatic differentiation would leave the choice of form to
the compiler, which on CPUs falls back to slow loops for dilated and even-sized convolutions
(benchmarks/resampling.py).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Small maps have wide kernels: below this side of the smaller map, spreading the kernel takes more
# time on CPUs than the merged convolution saves (benchmarks/resampling.py).
_SMALLEST_MERGED_ON_CPU = 8


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c n"]
) -> Float[Array, "b h w n"]:
    """Convolution with stride 1 and same padding, in the type of `x`."""
    kernel = kernel.astype(x.dtype)
    if kernel.shape[:2] == (1, 1):
        return x @ kernel[0, 0]  # Compilers have better matrix products than 1x1 convolutions.
    return _convolve(x, kernel, padding="SAME")


def upsample_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c n"]
) -> Float[Array, "b h2 w2 n"]:
    """Nearest-neighbour 2x enlargement, then `convolve`."""

    def one_by_one(x: Array, kernel: Array) -> Array:
        return convolve(upsample(x), kernel)

    def merged(x: Array, kernel: Array) -> Array:
        return _enlarge(x, _spread(_transpose(kernel.astype(x.dtype))))

    return _merge(one_by_one, merged, min(x.shape[1:3]))(x, kernel)


def convolve_pool(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c n"]
) -> Float[Array, "b h2 w2 n"]:
    """`convolve`, then the mean of every 2x2 square; the sides of `x` must be even."""

    def one_by_one(x: Array, kernel: Array) -> Array:
        return average_pool(convolve(x, kernel))

    def merged(x: Array, kernel: Array) -> Array:
        return _shrink(x, _spread(kernel.astype(x.dtype), scale=0.25))

    return _merge(one_by_one, merged, min(x.shape[1:3]) // 2)(x, kernel)


def _merge(one_by_one: Callable, merged: Callable, small_side: int) -> Callable:
    """The form that serves best, given the side of the smaller map."""
    if small_side >= _SMALLEST_MERGED_ON_CPU:
        return merged

    def choose(on_cpu: Callable, elsewhere: Callable, *args: Array):
        return jax.lax.platform_dependent(*args, cpu=on_cpu, default=elsewhere)

    # A gradient rule of its own, so that no platform stores what the other's gradient needs.
    convolve = jax.custom_vjp(functools.partial(choose, one_by_one, merged))

    def pull_back(form: Callable, x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(form, x, kernel)[1](g)

    def backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        forms = (functools.partial(pull_back, form) for form in (one_by_one, merged))
        return choose(*forms, *residuals, g)

    convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
    return convolve


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Nearest-neighbour 2x enlargement."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, h * 2, w * 2, c)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The mean of every 2x2 square."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def _spread(kernel: Float[Array, "3 3 c n"], *, scale: float = 1.0) -> Float[Array, "4 4 c n"]:
    """The kernel convolved with a 2x2 square of `scale`, in its own type.

    In bfloat16 that rounds before it sums, for an error at most 1.6 times that of the two steps;
    the float32 sums of the widest kernels would take hundreds of megabytes.
    """
    line = np.eye(4, 3) + np.eye(4, 3, -1)
    # One matrix product: on CPUs much faster, there and back, than sums of shifted kernels. It has
    # the scale too, since GPUs' compiler moves a kernel's reversal across a multiplication, and
    # then does not know a transposed convolution (`_enlarge_by_transposition`).
    square = jnp.asarray(scale * np.kron(line, line), kernel.dtype)
    spread = jnp.matmul(square, kernel.reshape(9, -1), precision=jax.lax.Precision.HIGHEST)
    return spread.reshape(4, 4, *kernel.shape[2:])


def _convolve(x: Array, kernel: Array, **options) -> Array:
    options = {"window_strides": (1, 1)} | options
    return jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def _transpose(kernel: Float[Array, "k k c n"]) -> Float[Array, "k k n c"]:
    """The kernel of the transposed convolution."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _stride_2(x: Array, kernel: Array) -> Array:
    return _convolve(x, kernel, window_strides=(2, 2), padding=((1, 1), (1, 1)))


def _kernel_gradient(x: Array, kernel: Array, g: Array) -> Array:
    (gradient,) = jax.linear_transpose(lambda k: _stride_2(x, k), kernel)(g)
    return gradient


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
    """As the gradient of a convolution with stride 2, by which accelerators' libraries know it.

    GPUs' compiler finds it by the reversal of the kernel just before the product; without one it
    would fill the map with zeros and convolve at the large resolution.
    """
    b, h, w, _ = x.shape
    large = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, kernel.shape[2]), x.dtype)
    return jax.linear_transpose(lambda y: _stride_2(y, kernel), large)(x)[0]


def _enlarge_by_corners(x: Array, kernel: Array) -> Array:
    """As one dense 2x2 convolution.

    The four pixels of the large map that meet at a corner of the small one see the same 2x2 window
    of it, each through its own 2x2 kernel: one convolution gives all four as channels, and a
    transposition puts them in their places.
    """
    b, h, w, n = x.shape
    c = kernel.shape[2]
    taps = kernel.reshape(2, 2, 2, 2, c, n)[::-1, :, ::-1]  # Tap and pixel, along h and w.
    corners = _convolve(
        x,
        taps.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, n, 4 * c),
        padding=((1, 1), (1, 1)),
    )
    pixels = corners.reshape(b, h + 1, w + 1, 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(b, 2 * h + 2, 2 * w + 2, c)[:, 1:-1, 1:-1]
