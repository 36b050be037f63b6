"""benchmarks/measure.py: what it counts, in closed form."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import measure


def count(f, *args, platform="cpu"):
    jaxpr = jax.make_jaxpr(f)(*args).jaxpr
    return measure._count_flops(measure._without_dead_code(jaxpr), platform)


def test_products_count_in_every_turn_of_a_loop_and_not_where_nobody_needs_them():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert count(jnp.matmul, a, b) == 2 * 3 * 4 * 5

    def five_times(a, b):
        unneeded = b.T @ b
        del unneeded
        return jax.lax.scan(lambda carry, _: (carry + 1, a @ b), 0, length=5)[1]

    assert count(five_times, a, b) == 5 * 2 * 3 * 4 * 5


def test_convolutions_count_no_products_with_zeros_between_pixels():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 7))

    def halve(x):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    want = 2 * (2 * 4 * 4 * 7) * (4 * 4 * 3)
    assert count(halve, x) == want
    enlarge = jax.linear_transpose(halve, x)
    assert count(enlarge, halve(x)) == want  # The transpose takes as many as the map itself.


@pytest.mark.parametrize("platform,products", [("cpu", 1), ("cuda", 2), ("tpu", 2)])
def test_a_platforms_own_form_counts(platform, products):
    def form(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x @ x @ x)

    assert count(form, jnp.ones((3, 3)), platform=platform) == products * 2 * 27


def test_calls_of_a_turn_share_its_time():
    calls = []
    runs = [lambda name=name: calls.append(name) for name in "ab"]
    seconds = measure.time_in_turns(runs, repeats=2, calls_a_turn=3)
    assert "".join(calls) == "ab" + 2 * "aaabbb"
    assert len(seconds) == 2 and all(s < 1 for s in seconds)
