"""With bfloat16 networks every contrastive softmax, loss and statistic is float32."""

import jax
import jax.numpy as jnp
import pytest

from tests.small_step import (
    DISCRIMINATOR,
    GENERATOR,
    equations,
    make_batch,
    make_frozen,
    make_state,
    make_step,
)
from xmc_jax import losses

BATCH = 7  # No layer has this number of channels.
SOFTMAX = {"exp", "exp2", "log", "log1p", "logistic", "argmax", "rsqrt"}


def trace():
    step = make_step(
        generator=GENERATOR.clone(dtype=jnp.bfloat16),
        discriminator=DISCRIMINATOR.clone(dtype=jnp.bfloat16),
        flip=True,
    )
    arguments = make_state(), make_batch(b=BATCH), make_frozen(), jax.random.key(0)
    return jax.make_jaxpr(step)(*arguments).jaxpr


def types_of_softmaxes(jaxpr):
    return [
        str(equation.invars[0].aval.dtype)
        for equation in equations(jaxpr)
        if equation.primitive.name in SOFTMAX
    ]


def types_of_similarities(jaxpr):
    """Operands of the matrix products of two batches of embeddings, [b, c] x [c, b]."""
    return [
        str(variable.aval.dtype)
        for equation in equations(jaxpr)
        if equation.primitive.name == "dot_general"
        if equation.outvars[0].aval.shape == (BATCH, BATCH)
        for variable in equation.invars
    ]


def test_every_softmax_and_similarity_is_float32():
    jaxpr = trace()
    assert len(types_of_softmaxes(jaxpr)) > 20
    assert set(types_of_softmaxes(jaxpr)) == {"float32"}
    assert len(types_of_similarities(jaxpr)) >= 8  # Three terms per player, and their gradients.
    assert set(types_of_similarities(jaxpr)) == {"float32"}
    assert any(  # The networks do compute in bfloat16.
        equation.primitive.name == "conv_general_dilated"
        and equation.outvars[0].aval.dtype == jnp.bfloat16
        for equation in equations(jaxpr)
    )


@pytest.mark.parametrize("name", ["symmetric_cross_entropy", "inverse_norm", "l2_normalize"])
def test_the_test_notices_bfloat16(monkeypatch, name):
    """If one function of the losses computes in bfloat16."""
    exact = getattr(losses, name)

    def rounded(*arrays):
        low = [x.astype(jnp.bfloat16) if hasattr(x, "astype") else x for x in arrays]
        if name == "symmetric_cross_entropy":
            return tuple(jnp.mean(jax.nn.logsumexp(x, axis=1)) for x in (low[0], low[0]))
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact(*low))

    monkeypatch.setattr(losses, name, rounded)
    jaxpr = trace()
    assert "bfloat16" in types_of_softmaxes(jaxpr) + types_of_similarities(jaxpr)
