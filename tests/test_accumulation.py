"""accumulation.py: parts against the whole batch, for a loss over pairs of examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax import losses
from xmc_jax.accumulation import in_parts


def network(params, x):
    return jnp.tanh(x @ params["kernel"])


@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
def test_value_and_gradient_of_a_loss_over_pairs(rng, num_parts):
    x, partners = (jnp.float32(rng.normal(size=(6, n))) for n in (4, 3))
    params = {"kernel": jnp.float32(rng.normal(size=(4, 3)))}

    def linearize(x):
        outputs, pull_back = jax.vjp(lambda params: network(params, x), params)
        return outputs, lambda cotangent: pull_back(cotangent)[0], {"seen": jnp.sum(x)}

    def contrast(outputs):
        return losses.info_nce(outputs, partners)[0]

    @jax.jit
    def accumulate(x):
        outputs, pull_back, moved = in_parts(linearize, x, num_parts)
        value, cotangent = jax.value_and_grad(contrast)(outputs)
        return outputs, value, pull_back(cotangent), moved

    outputs, value, gradient, moved = accumulate(x)
    want = jax.value_and_grad(lambda params: contrast(network(params, x)))(params)
    np.testing.assert_allclose(outputs, network(params, x), rtol=1e-6)
    np.testing.assert_allclose(value, want[0], rtol=1e-6)
    np.testing.assert_allclose(gradient["kernel"], want[1]["kernel"], rtol=1e-5, atol=1e-6)
    sums = [x[i::num_parts].sum() for i in range(num_parts)]
    np.testing.assert_allclose(moved["seen"], sums, rtol=1e-5)
