"""resampling.py: merged convolutions and their gradients equal those of the two steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models.ops import resampling
from xmc_jax.models.ops.convolution import convolve, transpose_kernel
from xmc_jax.models.ops.resampling import average_pool, upsample


def in_two_steps_up(x, kernel):
    return convolve(upsample(x), kernel)


def in_two_steps_down(x, kernel):
    return average_pool(convolve(x, kernel))


PAIRS = {
    "up": (resampling.upsample_convolve, in_two_steps_up),
    "down": (resampling.convolve_pool, in_two_steps_down),
}


@pytest.fixture(autouse=True)
def merge_small_maps_too(monkeypatch):
    monkeypatch.setattr(resampling, "_SMALLEST_MERGED_ON_CPU", 1)


def make_inputs(rng, h=6, w=4, c=3, n=5):
    x = jnp.float32(rng.normal(size=(2, h, w, c)))
    return x, jnp.float32(rng.normal(size=(3, 3, c, n)))


def test_upsample_repeats_and_average_pool_undoes_it():
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    up = upsample(x)
    np.testing.assert_array_equal(up[0, :2, 2:4, 1], jnp.full((2, 2), x[0, 0, 1, 1]))
    np.testing.assert_array_equal(average_pool(up), x)


@pytest.mark.parametrize("smallest_merged", [1, None])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_the_two_steps(rng, monkeypatch, name, smallest_merged):
    """Merged at any size, and with the limit for CPUs."""
    if smallest_merged is None:
        monkeypatch.undo()
    merged, in_two_steps = PAIRS[name]
    x, kernel = make_inputs(rng)
    want, pull_back = jax.vjp(in_two_steps, x, kernel)
    got, merged_pull_back = jax.vjp(merged, x, kernel)
    np.testing.assert_allclose(got, want, atol=1e-5)
    cotangent = jnp.float32(rng.normal(size=want.shape))
    for a, b in zip(merged_pull_back(cotangent), pull_back(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_second_derivatives_agree(rng, name):
    """The backward passes are differentiable too, because they use the same maps."""
    x, kernel = make_inputs(rng, h=2, w=2, c=2, n=2)

    def curvature(f):
        def penalty(kernel):
            return jnp.sum(jax.grad(lambda x: jnp.sum(f(x, kernel) ** 2))(x) ** 2)

        return jax.grad(penalty)(kernel)

    merged, in_two_steps = (curvature(f) for f in PAIRS[name])
    np.testing.assert_allclose(merged, in_two_steps, rtol=1e-3, atol=1e-2)


def test_both_forms_of_the_enlargement_agree(rng):
    """The form for CPUs and the form for accelerators."""
    x, kernel = make_inputs(rng)
    kernel = transpose_kernel(resampling._spread(kernel, jnp.float32))
    np.testing.assert_allclose(
        resampling._enlarge_by_corners(x, kernel),
        resampling._enlarge_by_transposition(x, kernel),
        atol=1e-5,
    )


def test_both_forms_of_the_smallest_maps_kernel_gradients_agree(rng):
    """The form for GPUs and the form for all other platforms."""
    x = jnp.float32(rng.normal(size=(2, 8, 8, 3)))
    kernel = jnp.float32(rng.normal(size=(4, 4, 3, 5)))
    g = jnp.float32(rng.normal(size=(2, 4, 4, 5)))
    np.testing.assert_allclose(
        resampling._kernel_gradient_as_products(x, kernel, g),
        resampling._kernel_gradient_as_convolution(x, kernel, g),
        atol=1e-5,
    )


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_all_forms_of_spreading_agree(rng, scale):
    """Each is a convolution of the kernel with a 2x2 square, in NumPy."""
    kernel = jnp.float32(rng.normal(size=(3, 3, 2, 4)))
    want = np.zeros((4, 4, 2, 4))
    for i, j in np.ndindex(2, 2):
        want[i : i + 3, j : j + 3] += scale * np.float64(kernel)
    cotangent = jnp.float32(rng.normal(size=want.shape))
    gradient = sum(scale * cotangent[i : i + 3, j : j + 3] for i, j in np.ndindex(2, 2))
    for form in (resampling._spread_by_product, resampling._spread_by_shifts):
        got, pull_back = jax.vjp(lambda k, form=form: form(k, jnp.float32, scale), kernel)
        np.testing.assert_allclose(got, want, atol=1e-6)
        np.testing.assert_allclose(pull_back(cotangent)[0], gradient, atol=1e-5)


def test_each_platform_lowers_its_own_form(rng):
    x, kernel = make_inputs(rng)
    for platform, dilated in (("cpu", False), ("tpu", True), ("cuda", True)):
        traced = jax.jit(resampling.upsample_convolve).trace(x, kernel)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("lhs_dilate = [2, 2]" in text) == dilated, platform


def test_smallest_maps_take_the_two_steps_on_cpus(rng, monkeypatch):
    monkeypatch.undo()

    def gradients(f, x, kernel):
        y, pull_back = jax.vjp(f, x, kernel)
        return pull_back(y)

    for side, platform, two_steps in ((4, "cpu", True), (4, "tpu", False), (8, "cpu", False)):
        for f, h in ((resampling.upsample_convolve, side), (resampling.convolve_pool, 2 * side)):
            traced = jax.jit(gradients, static_argnums=0).trace(f, *make_inputs(rng, h=h, w=h))
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            # The convolutions involve either the 3x3 kernel, or the 4x4 kernel made from it.
            products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
            assert products and two_steps == any("<3x3x" in p for p in products), (f, side)


@pytest.mark.parametrize("name", PAIRS)
def test_bfloat16_errs_little_more_than_the_two_steps_do(rng, name):
    """Results and gradients have at most 1.6 times the error of the two steps in bfloat16.

    Kernels are rounded before they are spread.
    """
    merged, in_two_steps = PAIRS[name]
    x, kernel = make_inputs(rng, h=16, w=16, c=16, n=16)
    x = x.astype(jnp.bfloat16)
    exact, exact_pull_back = jax.vjp(in_two_steps, x.astype(jnp.float32), kernel)
    cotangent = jnp.asarray(rng.normal(size=exact.shape), jnp.bfloat16)
    want = exact, *exact_pull_back(cotangent.astype(jnp.float32))

    def errors(f):
        out, pull_back = jax.vjp(f, x, kernel)
        assert out.dtype == jnp.bfloat16
        got = out, *pull_back(cotangent)
        return np.array(
            [jnp.linalg.norm(a - b) / jnp.linalg.norm(b) for a, b in zip(got, want, strict=True)]
        )

    assert np.all(errors(merged) < 1.6 * errors(in_two_steps)), name
