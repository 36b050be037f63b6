"""Operations between convolutions, with gradients that read feature maps as rarely as possible.

Feature maps at large resolutions take hundreds of megabytes, so the speed of these operations is
limited by memory. Automatic differentiation would store a map before and after each of them, and
read it once for every sum that a gradient needs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from xmc_jax.models.ops.platforms import barrier_on_gpus, by_platform

RELU_OUTPUT = "relu_output"  # Name of the results of `relu` in checkpoint policies.


@jax.custom_vjp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``max(x, 0)``. Its gradient needs only the result, so the argument is not stored."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = checkpoint_name(relu(x), RELU_OUTPUT)
    return y, y


def _relu_backward(y: Array, g: Array) -> tuple[Array]:
    # On GPUs XLA would rewrite `y > 0` as a condition on the argument. The argument would then be
    # stored after all, and the ReLU not fused into the convolution before it.
    return (jnp.where(y == 0, jnp.zeros_like(g), g),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def add_bias(x: Float[Array, "*b c"], bias: Float[Array, " c"]) -> Float[Array, "*b c"]:
    """Adds a vector to every position, in the type of `x`. The gradient is summed in float32."""
    return x + jnp.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))


def _add_bias_backward(_: None, g: Array) -> tuple[Array, Array]:
    return g, jnp.sum(g, axis=range(g.ndim - 1), dtype=jnp.float32)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


@jax.custom_vjp
def materialize_gradient(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the same array, whose gradient is written to memory before it is read.

    For a gradient that a convolution needs in memory anyway, and that is also summed. On GPUs XLA
    would fuse the sum into the pass that computes the gradient, and that pass would take twice as
    long.
    """
    return x


materialize_gradient.defvjp(lambda x: (x, None), lambda _, g: (barrier_on_gpus(g),))


class Statistics(NamedTuple):
    """Means and variances of groups of images, float32."""

    mean: Float[Array, "n c"]
    var: Float[Array, "n c"]


def batch_norm_relu(
    x: Float[Array, "b h w c"],
    gamma: Float[Array, "b rows columns c"],
    beta: Float[Array, "b rows columns c"],
    group_size: int,
    epsilon: float,
) -> tuple[Float[Array, "b h w c"], Statistics]:
    """``relu((1 + gamma) * normalized(x) + beta)``, normalised by the statistics of the batch.

    Args:
      x: A feature map. It is divided into `rows` times `columns` cells.
      gamma: Scales, one for each cell.
      beta: Shifts, one for each cell.
      group_size: Number of consecutive images that share their statistics; divides the batch.
      epsilon: Added to variances, > 0.

    Returns:
      The map in the type of `x`, and the statistics of the groups, which pass no gradient on.
    """
    options = {"group_size": group_size, "epsilon": epsilon}
    in_two_passes = functools.partial(_in_two_passes, **options)
    # On TPUs XLA would write the float32 maps between the two passes to memory.
    default = functools.partial(_step_by_step, **options)
    return by_platform(default, cpu=in_two_passes, cuda=in_two_passes)(x, gamma, beta)


def normalize_relu(
    x: Float[Array, "b h w c"],
    gamma: Float[Array, "b rows columns c"],
    beta: Float[Array, "b rows columns c"],
    statistics: Statistics,
    epsilon: float,
) -> Float[Array, "b h w c"]:
    """As `batch_norm_relu`, but normalised by given statistics."""
    cells, scale, shift = (_in_cells(y, *gamma.shape[1:3]) for y in (x, 1.0 + gamma, beta))
    mean, var = (_of_images(y, x.shape[0]) for y in statistics)
    y = scale * ((cells - mean) * jax.lax.rsqrt(var + epsilon)) + shift
    return jnp.maximum(y, 0).reshape(x.shape).astype(x.dtype)


# Axes of a map in cells: (image, row, its pixels, column, its pixels, channel).
_ROWS_OF_A_CELL, _COLUMNS_OF_A_CELL = 2, 4


def _in_cells(x: Array, rows: int, columns: int) -> Array:
    b, h, w, c = x.shape
    return x.reshape(b, rows, h // rows, columns, w // columns, c).astype(jnp.float32)


def _of_images(statistic: Float[Array, "n c"], num_images: int) -> Array:
    """The statistic of its group for each image, in the axes of `_in_cells`."""
    n, c = statistic.shape
    if n == 1:  # Only this case works for an unknown number of images, as in exported programs.
        return statistic.reshape(1, 1, 1, 1, 1, c)
    repeated = jnp.broadcast_to(statistic[:, None], (n, num_images // n, c))
    return repeated.reshape(num_images, 1, 1, 1, 1, c)


def _mean_of_groups(x: Array, num_groups: int) -> Float[Array, "n c"]:
    return jnp.mean(x.reshape(num_groups, -1, x.shape[-1]), axis=1)


def _sum_of_cells(*maps: Array) -> list[Array]:
    # First rows, then columns. On GPUs XLA would have a single thread compute each sum, slowly, if
    # it were one step.
    rows = [jnp.sum(y, axis=_ROWS_OF_A_CELL, keepdims=True) for y in maps]
    if maps[0].shape[_ROWS_OF_A_CELL] > 1:
        rows = barrier_on_gpus(rows)
    return [jnp.sum(y, axis=_COLUMNS_OF_A_CELL, keepdims=True) for y in rows]


def _statistics(x: Array, group_size: int) -> Statistics:
    num_groups, x = x.shape[0] // group_size, x.astype(jnp.float32)
    mean, square = (_mean_of_groups(y, num_groups) for y in (x, jnp.square(x)))
    return Statistics(mean, jnp.maximum(square - jnp.square(mean), 0.0))


def _step_by_step(
    x: Array, gamma: Array, beta: Array, group_size: int, epsilon: float
) -> tuple[Array, Statistics]:
    """Statistics in float32, the rest in the type of `x`; differentiated automatically."""
    statistics = _statistics(x, group_size)
    rows, columns = gamma.shape[1:3]
    mean, var = (_of_images(y, x.shape[0]) for y in statistics)
    normalized = (_in_cells(x, rows, columns) - mean) * jax.lax.rsqrt(var + epsilon)
    scale, shift = (jnp.expand_dims(y, (2, 4)) for y in (1.0 + gamma, beta))
    y = relu(normalized.astype(x.dtype) * scale + shift)
    return y.reshape(x.shape).astype(x.dtype), jax.lax.stop_gradient(statistics)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _in_two_passes(
    x: Array, gamma: Array, beta: Array, group_size: int, epsilon: float
) -> tuple[Array, Statistics]:
    """All in float32, with a gradient in two passes over the maps."""
    return _two_passes_forward(x, gamma, beta, group_size, epsilon)[0]


def _two_passes_forward(x: Array, gamma: Array, beta: Array, group_size: int, epsilon: float):
    # Second derivatives pass through the statistics that are stored for the gradient, but not
    # through those that are returned.
    statistics = _statistics(x, group_size)
    y = normalize_relu(x, gamma, beta, statistics, epsilon)
    return (y, jax.lax.stop_gradient(statistics)), (x, gamma, beta, statistics)


def _two_passes_backward(group_size: int, epsilon: float, residuals, cotangents):
    x, gamma, beta, statistics = residuals
    g, _ = cotangents
    num_groups = statistics.mean.shape[0]
    cells, g, scale, shift = (_in_cells(y, *gamma.shape[1:3]) for y in (x, g, 1.0 + gamma, beta))
    mean, var = (_of_images(y, x.shape[0]) for y in statistics)
    inverse_deviation = jax.lax.rsqrt(var + epsilon)
    normalized = (cells - mean) * inverse_deviation
    g = jnp.where(scale * normalized + shift > 0, g, 0.0)

    # One pass over the maps gives the gradients of scales and shifts. The gradient through the
    # statistics of a group needs only sums of these few numbers, and no other pass.
    d_beta, d_gamma = _sum_of_cells(g, g * normalized)
    pixels_of_a_cell = cells.shape[_ROWS_OF_A_CELL] * cells.shape[_COLUMNS_OF_A_CELL]
    through_mean, through_var = (
        _of_images(_mean_of_groups(scale * y, num_groups) / pixels_of_a_cell, x.shape[0])
        for y in (d_beta, d_gamma)
    )
    d_x = inverse_deviation * (scale * g - through_mean - normalized * through_var)
    d_gamma, d_beta = (y.reshape(gamma.shape).astype(gamma.dtype) for y in (d_gamma, d_beta))
    return d_x.reshape(x.shape).astype(x.dtype), d_gamma, d_beta


_in_two_passes.defvjp(_two_passes_forward, _two_passes_backward)
