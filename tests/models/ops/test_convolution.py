"""convolution.py: the form for each platform is the same convolution, with the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models.ops import convolution


def make_inputs(rng, c=3, n=12, side=3):
    x = jnp.float32(rng.normal(size=(2, 6, 5, c)))
    return x, jnp.float32(rng.normal(size=(side, side, c, n)))


def test_convolve_by_hand(rng):
    x, kernel = make_inputs(rng)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = sum(padded[:, i : i + 6, j : j + 5] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(convolution.convolve(x, kernel), want, atol=1e-5)
    np.testing.assert_allclose(convolution.convolve(x, kernel[:1, :1]), x @ kernel[0, 0], atol=1e-6)


@pytest.mark.parametrize("c,n", [(3, 12), (12, 3), (2, 2)])
def test_the_form_for_few_channels_is_the_same_convolution(rng, c, n):
    x, kernel = make_inputs(rng, c, n)
    want, pull_back = jax.vjp(convolution._convolve_directly, x, kernel)
    got, few_pull_back = jax.vjp(convolution._convolve_few_channels, x, kernel)
    np.testing.assert_allclose(got, want, atol=1e-5)
    cotangent = jnp.float32(rng.normal(size=want.shape))
    for a, b in zip(few_pull_back(cotangent), pull_back(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_form_for_few_channels_errs_little_more_in_bfloat16(rng):
    x, kernel = make_inputs(rng, 3, 64)
    x = x.astype(jnp.bfloat16)
    exact, exact_pull_back = jax.vjp(convolution._convolve_directly, jnp.float32(x), kernel)
    cotangent = jnp.asarray(rng.normal(size=exact.shape), jnp.bfloat16)
    want = exact, *exact_pull_back(jnp.float32(cotangent))

    def errors(form):
        out, pull_back = jax.vjp(form, x, kernel)
        assert out.dtype == jnp.bfloat16
        got = out, *pull_back(cotangent)
        return np.array(
            [jnp.linalg.norm(a - b) / jnp.linalg.norm(b) for a, b in zip(got, want, strict=True)]
        )

    plain = errors(convolution._convolve_directly)
    # The gradient with respect to `x` has few channels: nine roundings, of terms a third as large.
    most = np.array([1.1, 1.5, 1.1]) * plain
    assert np.all(errors(convolution._convolve_few_channels) < most)


def test_few_channels_take_their_own_form_on_gpus_alone(rng):
    def lower(platform, c, n):
        traced = jax.jit(convolution.convolve).trace(*make_inputs(rng, c, n))
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "tensor<1x1x32x12xf32>" in lower("cuda", 3, 12)  # A patch of 27 numbers, padded.
    assert "stablehlo.convolution" not in lower("cuda", 12, 3)
    for platform, c, n in (("cpu", 3, 12), ("tpu", 12, 3), ("cuda", 16, 12)):
        text = lower(platform, c, n)
        assert "stablehlo.convolution" in text and "tensor<1x1x" not in text, platform


def test_gradients_of_kernels_leave_in_float32(rng):
    """Whatever the compute type, because the optimizer takes them."""
    x, kernel = make_inputs(rng, 8, 8)
    gradient = jax.grad(
        lambda kernel: jnp.sum(convolution.convolve(x.astype(jnp.bfloat16), kernel) ** 2)
    )(kernel)
    assert gradient.dtype == jnp.float32
