"""normalization.py: the same numbers and gradients as the operations one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models.ops import normalization
from xmc_jax.models.ops.resampling import upsample


def make_inputs(rng, b=6, cells=(3, 2), pixels=2, c=4):
    rows, columns = cells
    x = jnp.float32(rng.normal(1.0, 2.0, size=(b, rows * pixels, columns * pixels, c)))
    gamma, beta = (jnp.float32(rng.normal(size=(b, rows, columns, c))) for _ in range(2))
    return x, gamma, beta


def written_out(x, gamma, beta, group_size, epsilon=1e-5):
    """Batch normalisation, modulation at every pixel and ReLU, from the equations."""
    pixels = x.shape[1] // gamma.shape[1]
    for _ in range(int(np.log2(pixels))):
        gamma, beta = upsample(gamma), upsample(beta)
    groups = x.reshape(-1, group_size, *x.shape[1:])
    mean, var = (f(groups, axis=(1, 2, 3), keepdims=True) for f in (jnp.mean, jnp.var))
    normalized = ((groups - mean) / jnp.sqrt(var + epsilon)).reshape(x.shape)
    return jax.nn.relu((1.0 + gamma) * normalized + beta)


FORMS = [normalization.batch_norm_relu, normalization._step_by_step, normalization._in_two_passes]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group_size", [6, 3, 2])
@pytest.mark.parametrize("cells,pixels", [((3, 2), 2), ((2, 2), 4), ((4, 4), 1), ((1, 1), 4)])
def test_every_form_equals_the_operations_written_out(rng, form, group_size, cells, pixels):
    inputs = make_inputs(rng, cells=cells, pixels=pixels)

    def merged(*inputs):
        return form(*inputs, group_size, 1e-5)[0]

    want, pull_back = jax.vjp(lambda *inputs: written_out(*inputs, group_size), *inputs)
    got, merged_pull_back = jax.vjp(merged, *inputs)
    np.testing.assert_allclose(got, want, atol=1e-5)
    cotangent = jnp.float32(rng.normal(size=want.shape))
    for a, b in zip(merged_pull_back(cotangent), pull_back(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_statistics_are_those_of_the_groups_and_pass_no_gradient_on(rng, form):
    x, gamma, beta = make_inputs(rng)
    _, statistics = form(x, gamma, beta, 3, 1e-5)
    groups = np.float64(x).reshape(2, -1, 4)
    np.testing.assert_allclose(statistics.mean, groups.mean(1), atol=1e-5)
    np.testing.assert_allclose(statistics.var, groups.var(1), rtol=1e-5)

    def of_statistics(x):
        return jnp.sum(form(x, gamma, beta, 3, 1e-5)[1].mean)

    np.testing.assert_array_equal(jax.grad(of_statistics)(x), 0.0)


def test_gradients_through_the_statistics_leave_shifts_and_scales_of_the_input_alone(rng):
    """The gradient is orthogonal to shifts and scales of the input.

    They do not change the result, except through epsilon.
    """
    x, gamma, beta = make_inputs(rng)
    cotangent = jnp.float32(rng.normal(size=x.shape))
    _, pull_back = jax.vjp(lambda x: normalization.batch_norm_relu(x, gamma, beta, 6, 1e-9)[0], x)
    (gradient,) = pull_back(cotangent)
    np.testing.assert_allclose(jnp.sum(gradient, axis=(0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(jnp.sum(gradient * x, axis=(0, 1, 2)), 0.0, atol=1e-3)


def test_constant_channels_stay_finite(rng):
    x, gamma, beta = make_inputs(rng)
    x = x.at[..., 0].set(3.0)
    got, pull_back = jax.vjp(
        lambda *inputs: normalization.batch_norm_relu(*inputs, 6, 1e-5)[0], x, gamma, beta
    )
    assert all(np.isfinite(y).all() for y in (got, *pull_back(jnp.ones_like(got))))


def test_inside_of_bfloat16_everything_is_float32(rng):
    x, gamma, beta = (y.astype(jnp.bfloat16) for y in make_inputs(rng))
    got, statistics = normalization.batch_norm_relu(x, gamma, beta, 6, 1e-5)
    assert got.dtype == jnp.bfloat16 and {s.dtype for s in statistics} == {jnp.dtype("float32")}
    exact = normalization.batch_norm_relu(*map(jnp.float32, (x, gamma, beta)), 6, 1e-5)[0]
    # The result is rounded once, besides the rounding of 1 + gamma.
    np.testing.assert_allclose(jnp.float32(got), exact, rtol=2e-2, atol=2e-2)


def test_relu_and_its_gradient():
    x = jnp.array([-2.0, -0.0, 0.0, 3.0])
    y, pull_back = jax.vjp(normalization.relu, x)
    np.testing.assert_array_equal(y, [0.0, 0.0, 0.0, 3.0])
    np.testing.assert_array_equal(pull_back(jnp.ones(4))[0], [0.0, 0.0, 0.0, 1.0])
    stored = jax.tree.leaves(pull_back)
    assert len(stored) == 1 and stored[0].shape == y.shape  # The result, not the argument too.


def test_bias_gradients_are_summed_in_float32():
    """In bfloat16 a sum of ones would stop at 256."""
    x, bias = jnp.zeros((8, 16, 16, 2), jnp.bfloat16), jnp.ones(2)
    y, pull_back = jax.vjp(normalization.add_bias, x, bias)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(jnp.float32(y), 1.0)
    np.testing.assert_array_equal(pull_back(jnp.ones_like(y))[1], 2048.0)


def test_materialize_gradient_changes_no_number():
    x = jnp.arange(3.0)
    y, pull_back = jax.vjp(normalization.materialize_gradient, x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pull_back(2.0 * x)[0], 2.0 * x)
