"""platforms.py: each platform gets its own implementation, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np

from xmc_jax.models.ops import platforms


def lower(f, *args, platform):
    return jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def test_each_platform_gets_its_implementation_and_its_gradient():
    """The implementations differ here, to show which of them ran."""
    f = platforms.by_platform(jnp.sin, cpu=lambda x: 3.0 * x, cuda=jnp.exp)
    x = jnp.float32(2.0)
    np.testing.assert_allclose(f(x), 6.0)
    np.testing.assert_allclose(jax.grad(f)(x), 3.0)
    for platform, forwards, backwards in (
        ("cuda", "stablehlo.exponential", "stablehlo.exponential"),
        ("tpu", "stablehlo.sine", "stablehlo.cosine"),
    ):
        assert forwards in lower(f, x, platform=platform)
        assert backwards in lower(jax.grad(f), x, platform=platform)


def test_no_platform_stores_what_the_gradient_of_another_needs():
    f = platforms.by_platform(lambda x: x * 2.0, cuda=lambda x: jnp.exp(jnp.sin(x)))
    _, pull_back = jax.vjp(f, jnp.ones(3))
    stored = jax.tree.leaves(pull_back)
    assert len(stored) == 1 and stored[0].shape == (3,)  # The argument.


def test_barriers_and_layouts_are_for_gpus_only():
    x = jnp.ones((2, 3))
    for f, word in (
        (platforms.barrier_on_gpus, "optimization_barrier"),
        (platforms.default_layout_on_gpus, "LayoutConstraint"),
    ):
        assert word in lower(f, x, platform="cuda")
        for platform in ("cpu", "tpu"):
            assert word not in lower(f, x, platform=platform)
        np.testing.assert_array_equal(f(x), x)
