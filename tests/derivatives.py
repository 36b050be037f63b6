"""Gradients of gradients, as R1 needs them."""

import jax
import jax.numpy as jnp
import numpy as np


def second_derivatives(f, inputs):
    """The gradients of the squared norm of all gradients of `f`."""
    numbers = tuple(range(len(inputs)))

    def penalty(*inputs):
        gradients = jax.grad(lambda *x: jnp.sum(jnp.sin(f(*x))), numbers)(*inputs)
        return sum(jnp.sum(g**2) for g in gradients)

    return jax.jit(jax.grad(penalty, numbers))(*inputs)


def assert_same_second_derivatives(form, plain, inputs):
    got, want = (second_derivatives(f, inputs) for f in (form, plain))
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * float(jnp.abs(y).max()))
