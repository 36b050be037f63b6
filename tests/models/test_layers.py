"""layers.py: the blocks equal those of the paper, written out plainly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models.discriminator import DiscriminatorBlock
from xmc_jax.models.layers import BatchNorm, Condition, GeneratorBlock
from xmc_jax.models.ops.resampling import average_pool, upsample


def convolve(x, params):
    bias = params["bias"].reshape(1, 1, 1, -1)
    numbers = ("NHWC", "HWIO", "NHWC")
    return (
        jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
        + bias
    )


def test_generator_block_equals_the_plain_one():
    """Upsampling first, then every convolution at full resolution, as published."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    condition = Condition(jax.random.normal(jax.random.key(1), (2, 5)))
    block = GeneratorBlock(3)
    variables = block.init(jax.random.key(2), x, condition, train=False)
    variables = jax.tree.map(lambda v: v + 0.1, variables)  # No zero biases.
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, name):
        mean, var = (stats[name]["batch_norm"][k].reshape(1, 1, 1, -1) for k in ("mean", "var"))
        gamma, beta = (
            (condition.vector @ params[name][k]["kernel"] + params[name][k]["bias"][None])[
                :, None, None
            ]
            for k in ("gamma", "beta")
        )
        return (x - mean) / jnp.sqrt(var + 1e-5) * (1 + gamma) + beta

    h = convolve(upsample(jax.nn.relu(norm(x, "norm_1"))), params["conv_1"])
    h = convolve(jax.nn.relu(norm(h, "norm_2")), params["conv_2"])
    want = h + convolve(upsample(x), params["shortcut"])
    got = block.apply(variables, x, condition, train=False)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_discriminator_block_equals_the_plain_one():
    """Every convolution at full resolution, then the 2x2 mean, as published."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 6))
    block = DiscriminatorBlock(3, downsample=True)
    variables = block.init({"params": jax.random.key(2)}, x, train=False)
    params = jax.tree.map(lambda v: v + 0.1, variables["params"])

    def normalized(name):
        matrix = params[name]["kernel"].reshape(-1, 3)
        u = variables["spectral"][name]["u"]
        v = u @ matrix.T / jnp.linalg.norm(u @ matrix.T)
        u = v @ matrix / jnp.linalg.norm(v @ matrix)
        sigma = jnp.squeeze(v @ matrix @ u.T)
        return {"kernel": params[name]["kernel"] / sigma, "bias": params[name]["bias"]}

    h = convolve(jax.nn.relu(x), normalized("conv_1"))
    h = convolve(jax.nn.relu(h), normalized("conv_2"))
    want = average_pool(h + convolve(x, normalized("shortcut")))
    got = block.apply({**variables, "params": params}, x, train=False)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group_size", [0, 2, 3])
def test_batch_norm_has_statistics_of_its_groups(rng, group_size):
    x = jnp.float32(rng.normal(2.0, 3.0, size=(6, 4, 4, 5)))
    plain = jnp.zeros((6, 1, 1, 5)), jnp.zeros((6, 1, 1, 5))
    norm = BatchNorm(group_size)
    variables = norm.init(jax.random.key(0), x, *plain, train=True)
    got, moved = norm.apply(variables, x, *plain, train=True, mutable=["batch_stats"])

    groups = np.split(np.float64(x), 6 // (group_size or 6))
    want = [(g - g.mean((0, 1, 2))) / np.sqrt(g.var((0, 1, 2)) + 1e-5) for g in groups]
    np.testing.assert_allclose(got, np.maximum(np.concatenate(want), 0), atol=1e-5)
    for name, start, of in (("mean", 0.0, np.mean), ("var", 1.0, np.var)):
        now = np.mean([of(g, axis=(0, 1, 2)) for g in groups], axis=0)
        np.testing.assert_allclose(
            moved["batch_stats"][name], 0.9 * start + 0.1 * now, rtol=1e-4, atol=1e-5
        )
    still = norm.apply({"batch_stats": moved["batch_stats"]}, x, *plain, train=False)
    mean, var = (moved["batch_stats"][k].reshape(1, 1, 1, -1) for k in ("mean", "var"))
    np.testing.assert_allclose(still, jax.nn.relu((x - mean) / np.sqrt(var + 1e-5)), atol=1e-4)
