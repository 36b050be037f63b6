"""With bfloat16 networks every contrastive softmax, loss and statistic is float32."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.test_train_step import (
    DISCRIMINATOR,
    GENERATOR,
    encode_text,
    image_features,
    init,
    make_batch,
    walk,
)
from tests.test_train_step import frozen as frozen  # A fixture.
from xmc_jax import losses
from xmc_jax.objectives import LossWeights
from xmc_jax.train_step import make_train_step

BATCH = 7  # No layer has as many channels.
SOFTMAX = {"exp", "exp2", "log", "log1p", "logistic", "argmax", "rsqrt"}


def trace(frozen):
    step = make_train_step(
        generator=GENERATOR.clone(dtype=jnp.bfloat16),
        discriminator=DISCRIMINATOR.clone(dtype=jnp.bfloat16),
        generator_tx=optax.sgd(0.1),
        discriminator_tx=optax.sgd(0.1),
        encode_text=encode_text,
        image_features=image_features,
        loss_weights=LossWeights(1.0, 1.0, 1.0, 1.0),
        ema_decay=0.9,
        flip=True,
    )
    return jax.make_jaxpr(step)(init(), make_batch(b=BATCH), frozen, jax.random.key(0)).jaxpr


def types_of_softmaxes(jaxpr):
    return [
        str(equation.invars[0].aval.dtype)
        for equation in walk(jaxpr)
        if equation.primitive.name in SOFTMAX
    ]


def types_of_similarities(jaxpr):
    """Operands of the matrix products of two batches of embeddings, [b, c] x [c, b]."""
    return [
        str(variable.aval.dtype)
        for equation in walk(jaxpr)
        if equation.primitive.name == "dot_general"
        if equation.outvars[0].aval.shape == (BATCH, BATCH)
        for variable in equation.invars
    ]


def test_every_softmax_and_similarity_is_float32(frozen):
    jaxpr = trace(frozen)
    assert len(types_of_softmaxes(jaxpr)) > 20
    assert set(types_of_softmaxes(jaxpr)) == {"float32"}
    assert len(types_of_similarities(jaxpr)) >= 8  # Three terms a player and their gradients.
    assert set(types_of_similarities(jaxpr)) == {"float32"}
    assert any(  # The networks do compute in bfloat16.
        equation.primitive.name == "conv_general_dilated"
        and equation.outvars[0].aval.dtype == jnp.bfloat16
        for equation in walk(jaxpr)
    )


@pytest.mark.parametrize("name", ["symmetric_cross_entropy", "_word_match", "l2_normalize"])
def test_the_test_notices_bfloat16(frozen, monkeypatch, name):
    """One function of the losses at a time, fed bfloat16."""
    exact = getattr(losses, name)

    def rounded(*arrays):
        low = [x.astype(jnp.bfloat16) if hasattr(x, "astype") else x for x in arrays]
        if name == "symmetric_cross_entropy":
            return tuple(jnp.mean(jax.nn.logsumexp(x, axis=1)) for x in (low[0], low[0]))
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact(*low))

    monkeypatch.setattr(losses, name, rounded)
    jaxpr = trace(frozen)
    assert "bfloat16" in types_of_softmaxes(jaxpr) + types_of_similarities(jaxpr)
