"""train_state.py: the optimizers, and learning rates over a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xmc_jax.parallel import sharding
from xmc_jax.run.config_checks import FIELDS
from xmc_jax.train_state import OPTIMIZERS, make_optimizer, make_rate_factor

RATE, BETAS = 0.01, {"beta1": 0.7, "beta2": 0.9}


def updates(name, *gradients):
    """The updates after each of the gradients."""
    optimizer = make_optimizer(name, RATE, **BETAS)
    params = jax.tree.map(jnp.zeros_like, gradients[0])
    state, results = optimizer.init(params), []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, params)
        results.append(update)
    return results


def normal(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}


def test_every_name_that_a_config_may_have_is_an_optimizer():
    assert FIELDS["optimizer.name"].choices == OPTIMIZERS
    for name in OPTIMIZERS:
        (update,) = updates(name, normal(0, kernel=(4, 3), bias=(3,)))
        assert all(jnp.all(x != 0) for x in update.values())


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="name='sgd'.*adam, muon"):
        make_optimizer("sgd", RATE, **BETAS)


def test_adam_has_the_betas():
    gradients = normal(0, kernel=(4, 3)), normal(1, kernel=(4, 3))
    first, second = (x["kernel"] for x in gradients)
    mean = (0.3 * 0.7 * first + 0.3 * second) / (1 - 0.7**2)
    square = (0.1 * 0.9 * first**2 + 0.1 * second**2) / (1 - 0.9**2)
    got = updates("adam", *gradients)[1]["kernel"]
    np.testing.assert_allclose(got, -RATE * mean / jnp.sqrt(square), rtol=1e-5)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (3, 3, 4, 8), (1, 1, 8, 4)])
def test_muon_orthogonalises_kernels(shape):
    """An update has the singular vectors of the gradient, and nearly equal singular values."""
    gradient = normal(0, kernel=shape)
    (update,) = updates("muon", gradient)
    matrix = np.reshape(update["kernel"], (-1, shape[-1]))  # From inputs to outputs.
    u, _, v = np.linalg.svd(np.reshape(gradient["kernel"], matrix.shape), full_matrices=False)
    values = u.T @ -matrix @ v.T / (RATE * np.sqrt(max(matrix.shape)))
    assert np.all(np.diag(values) > 0.6) and np.all(np.diag(values) < 1.3)
    np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-4)
    assert np.sqrt(np.mean(matrix**2)) == pytest.approx(RATE, rel=0.25)


def test_muon_leaves_vectors_and_numbers_to_adam_with_its_momentum():
    gradients = [normal(seed, bias=(6,), scale=()) for seed in (0, 1)]
    nadam = optax.nadam(RATE, b1=BETAS["beta1"], b2=BETAS["beta2"])
    state = nadam.init(gradients[0])
    for gradient, got in zip(
        gradients, updates("muon", *(g | normal(5, kernel=(4, 6)) for g in gradients)), strict=True
    ):
        wanted, state = nadam.update(gradient, state)
        assert got.pop("kernel").shape == (4, 6)
        jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_muon_turns_with_its_gradient():
    gradients = [normal(seed, kernel=(6, 4))["kernel"] for seed in (0, 1)]
    turn = jnp.linalg.qr(normal(7, x=(6, 6))["x"])[0]
    straight = updates("muon", *({"kernel": g} for g in gradients))
    turned = updates("muon", *({"kernel": turn @ g} for g in gradients))
    for a, b in zip(turned, straight, strict=True):
        np.testing.assert_allclose(a["kernel"], turn @ b["kernel"], atol=1e-6)


def test_kernels_that_are_split_over_devices_get_the_same_updates():
    mesh = sharding.make_mesh(fsdp=8)
    gradient = normal(0, kernel=(3, 3, 64, 128), bias=(64,))
    optimizer = make_optimizer("muon", RATE, **BETAS)
    given = gradient, optimizer.init(gradient), gradient
    shardings = jax.tree.map(lambda x: sharding.parameter_sharding(mesh, x.shape), given)
    split = jax.jit(optimizer.update, in_shardings=shardings, out_shardings=shardings[:2])
    wanted, got = jax.jit(optimizer.update)(*given), split(*given)
    assert got[0]["kernel"].addressable_shards[0].data.shape == (3, 3, 64, 16)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), got, wanted)


@pytest.mark.parametrize(
    ("warmup_until", "decay_from", "wanted"),
    [
        (0.0, 0.5, {0: 1, 50: 1, 75: 0.5, 100: 0}),
        (0.2, 1.0, {0: 0, 1: 0.05, 10: 0.5, 20: 1, 99: 1}),
        (0.2, 0.5, {0: 0, 10: 0.5, 20: 1, 50: 1, 75: 0.5}),
        (1.0, 0.0, {0: 0, 50: 0.25, 100: 0}),  # At once: the product.
    ],
)
def test_rates_rise_by_a_line_and_fall_by_a_cosine(warmup_until, decay_from, wanted):
    factor = make_rate_factor(100, warmup_until, decay_from)
    got = [float(factor(jnp.int32(step))) for step in wanted]
    np.testing.assert_allclose(got, list(wanted.values()), atol=1e-6)


def test_rates_that_stay_cost_nothing():
    assert make_rate_factor(100, 0.0, 1.0) is None
