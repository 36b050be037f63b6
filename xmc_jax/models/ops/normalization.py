"""What happens to maps between convolutions, with gradients that read them as rarely as they can.

Maps at large resolutions are hundreds of megabytes, and what is done to them between convolutions
waits for memory. Automatic differentiation would store a map before and after each of these
operations, and go over it once for every sum that a gradient needs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from xmc_jax.models.ops.platforms import by_platform, hold_apart_on_gpus

RELU_OUTPUT = "relu_output"  # What checkpoint policies call results of `relu`.


@jax.custom_vjp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``max(x, 0)``, whose gradient looks at the result: nobody needs to keep the argument."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = checkpoint_name(relu(x), RELU_OUTPUT)
    return y, y


def _relu_backward(y: Array, g: Array) -> tuple[Array]:
    # Not by `y > 0`, which GPUs' compiler turns into a question about the argument: then it must be
    # kept after all, and the convolution that made it cannot take the ReLU along.
    return (jnp.where(y == 0, jnp.zeros_like(g), g),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def add_bias(x: Float[Array, "*b c"], bias: Float[Array, " c"]) -> Float[Array, "*b c"]:
    """Adds a vector to every position, in the type of `x`; its gradient is summed in float32."""
    return x + jnp.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))


def _add_bias_backward(_: None, g: Array) -> tuple[Array, Array]:
    return g, jnp.sum(g, axis=range(g.ndim - 1), dtype=jnp.float32)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


@jax.custom_vjp
def materialize_gradient(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same, but its gradient is written before it is read.

    For a gradient that a convolution needs anyway, and of which something else takes a sum: GPUs'
    compiler would take it in the pass that makes the gradient, and have that pass take twice as
    long.
    """
    return x


materialize_gradient.defvjp(lambda x: (x, None), lambda _, g: (hold_apart_on_gpus(g),))


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
    """``relu((1 + gamma) * normalized(x) + beta)``, normalised by the batch's own statistics.

    Args:
      x: A map of images.
      gamma: Scales of the map's cells; `rows` and `columns` divide its sides.
      beta: Shifts of the map's cells.
      group_size: Consecutive images that share their statistics; divides the batch.
      epsilon: Added to variances, > 0.

    Returns:
      The map in the type of `x`, and the groups' statistics, through which no gradient flows back.
    """

    def step_by_step(x: Array, gamma: Array, beta: Array) -> tuple[Array, Statistics]:
        return _step_by_step(x, gamma, beta, group_size, epsilon)

    def in_two_passes(x: Array, gamma: Array, beta: Array) -> tuple[Array, Statistics]:
        return _in_two_passes(x, gamma, beta, group_size, epsilon)

    # TPUs' compiler would write the float32 maps between the passes.
    return by_platform(step_by_step, cpu=in_two_passes, cuda=in_two_passes)(x, gamma, beta)


def normalize_relu(
    x: Float[Array, "b h w c"],
    gamma: Float[Array, "b rows columns c"],
    beta: Float[Array, "b rows columns c"],
    statistics: Statistics,
    epsilon: float,
) -> Float[Array, "b h w c"]:
    """As `batch_norm_relu`, by given statistics."""
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
    """A statistic of groups for each of their images, in the axes of `_in_cells`."""
    n, c = statistic.shape
    if n == 1:  # The only case in which an exported program may leave the number of images open.
        return statistic.reshape(1, 1, 1, 1, 1, c)
    repeated = jnp.broadcast_to(statistic[:, None], (n, num_images // n, c))
    return repeated.reshape(num_images, 1, 1, 1, 1, c)


def _mean_of_groups(x: Array, num_groups: int) -> Float[Array, "n c"]:
    return jnp.mean(x.reshape(num_groups, -1, x.shape[-1]), axis=1)


def _sum_of_cells(*maps: Array) -> list[Array]:
    # In two steps, and held apart: at once, GPUs' compiler would have each sum added up by one
    # thread, slowly.
    rows = [jnp.sum(y, axis=_ROWS_OF_A_CELL, keepdims=True) for y in maps]
    if maps[0].shape[_ROWS_OF_A_CELL] > 1:
        rows = hold_apart_on_gpus(rows)
    return [jnp.sum(y, axis=_COLUMNS_OF_A_CELL, keepdims=True) for y in rows]


def _statistics(x: Array, group_size: int) -> Statistics:
    num_groups, x = x.shape[0] // group_size, x.astype(jnp.float32)
    mean, square = (_mean_of_groups(y, num_groups) for y in (x, jnp.square(x)))
    return Statistics(mean, jnp.maximum(square - jnp.square(mean), 0.0))


def _step_by_step(
    x: Array, gamma: Array, beta: Array, group_size: int, epsilon: float
) -> tuple[Array, Statistics]:
    """Statistics in float32, all else in the type of `x`; differentiated automatically."""
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
    """All in float32, the gradient in two passes over the maps."""
    statistics = _statistics(x, group_size)
    return normalize_relu(x, gamma, beta, statistics, epsilon), statistics


def _two_passes_forward(x: Array, gamma: Array, beta: Array, group_size: int, epsilon: float):
    y, statistics = _in_two_passes(x, gamma, beta, group_size, epsilon)
    return (y, statistics), (x, gamma, beta, statistics)


def _two_passes_backward(group_size: int, epsilon: float, residuals, cotangents):
    x, gamma, beta, statistics = residuals
    g, _ = cotangents
    num_groups = statistics.mean.shape[0]
    cells, g, scale, shift = (_in_cells(y, *gamma.shape[1:3]) for y in (x, g, 1.0 + gamma, beta))
    mean, var = (_of_images(y, x.shape[0]) for y in statistics)
    inverse_deviation = jax.lax.rsqrt(var + epsilon)
    normalized = (cells - mean) * inverse_deviation
    g = jnp.where(scale * normalized + shift > 0, g, 0.0)

    # One pass over the maps for the gradients of scales and shifts. What the gradient through the
    # statistics needs of the whole group is a sum of these few numbers, not another pass.
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
