"""growth.py: a larger generator begins with the pictures of a smaller one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models.generator import Generator
from xmc_jax.models.layers import BATCH_STATS, MOMENTUM
from xmc_jax.models.ops import resampling
from xmc_jax.train_state import init_generator
from xmc_jax.training import growth

WIDTH, TEXT_WIDTH, BATCH = 3, 3, 8
SHARED = "block", "project", "query"
FIELDS = {"width": WIDTH, "z_dim": 4, "first_layer": "noise_and_sentence"}


def draw(model, seed):
    """Parameters of some training, and running statistics before it."""
    rng = np.random.default_rng(seed)
    init = functools.partial(init_generator, generator=model, text_width=TEXT_WIDTH)
    variables = jax.jit(init)(jax.random.key(seed))
    noisy = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), variables["params"])
    return variables | {"params": jax.tree.map(jnp.float32, noisy)}


@functools.partial(jax.jit, static_argnums=(0, 4))
def apply(model, variables, z, text, train):
    return model.apply(variables, z, *text, train=train, mutable=[BATCH_STATS])


@pytest.fixture(scope="module")
def grown():
    small, large = (Generator(resolution, **FIELDS) for resolution in (32, 64))
    assert growth.can_grow(small, large)
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(BATCH, 4)), jnp.float32)
    words = jnp.asarray(rng.normal(size=(BATCH, 5, TEXT_WIDTH)), jnp.float32)
    text = words, words.mean(axis=1), jnp.ones((BATCH, 5), bool)
    of_small, shared = draw(small, 0), draw(large, 1)
    for name in ("conv_2", "shortcut"):  # Maps grow in training.
        layer = of_small["params"]["block_2"][name]
        layer |= jax.tree.map(lambda x: 100 * x, layer)
    # Only the middle of this kernel commutes with the enlargement.
    to_rgb = of_small["params"]["to_rgb"]
    to_rgb["kernel"] = jnp.zeros_like(to_rgb["kernel"]).at[1, 1].set(to_rgb["kernel"][1, 1])
    # Running statistics are those of the batch, as after training on many such batches.
    _, updated = apply(small, of_small, z, text, True)
    before = of_small[BATCH_STATS]
    of_small |= {
        BATCH_STATS: jax.tree.map(
            lambda x, new: x + (new - x) / (1 - MOMENTUM), before, updated[BATCH_STATS]
        )
    }
    for part, arrays in of_small.items():
        shared[part] |= {name: x for name, x in arrays.items() if name.startswith(SHARED)}
    grow = jax.jit(growth.grow, static_argnums=0)
    return small, of_small, large, grow(large, shared, of_small, z, text), z, text


@pytest.mark.parametrize("train", [False, True])
def test_the_pictures_are_those_of_the_smaller_one(grown, train):
    small, of_small, large, of_large, z, text = grown
    pictures, larger = (
        apply(model, variables, z, text, train)[0]
        for model, variables in ((small, of_small), (large, of_large))
    )
    assert np.std(pictures) > 0.1
    np.testing.assert_allclose(larger, resampling.upsample(pictures), atol=1e-5)


def test_only_one_block_more_can_grow():
    small = Generator(32, **FIELDS)
    for fields in ({"width": 4}, {"modulation": "self"}, {"sentence_scale": 2.0}):
        assert not growth.can_grow(small, Generator(64, **FIELDS | fields))
    assert not growth.can_grow(small, Generator(128, **FIELDS))
    assert not growth.can_grow(Generator(64, **FIELDS), small)
    assert not growth.can_grow(Generator(128, **FIELDS), Generator(256, **FIELDS))
    # 3 channels at 128 px hold no picture with both signs.
    assert not growth.can_grow(Generator(64, **FIELDS), Generator(128, **FIELDS))
    assert growth.can_grow(*(Generator(side, **FIELDS | {"width": 6}) for side in (64, 128)))


def test_an_update_moves_the_pictures_as_little_as_the_smaller_ones(grown):
    """Adam's first update moves each parameter by the rate, whatever its gradient."""
    small, of_small, large, of_large, z, text = grown

    def moved(model, variables, seed):
        before, _ = apply(model, variables, z, text, True)
        rng = np.random.default_rng(seed)
        params = jax.tree.map(
            lambda x: x + 1e-3 * rng.choice(np.float32([-1, 1]), x.shape), variables["params"]
        )
        after, _ = apply(model, variables | {"params": params}, z, text, True)
        return np.mean(np.abs(after - before))

    of_both = [
        np.mean([moved(model, variables, seed) for seed in range(4)])
        for model, variables in ((small, of_small), (large, of_large))
    ]
    assert of_both[1] < 1.5 * of_both[0], of_both
