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

WIDTH, TEXT_WIDTH, BATCH = 2, 3, 8
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
    difference = np.abs(larger - resampling.upsample(pictures))
    assert np.max(difference) < 5e-3  # Far from their mean, dark pixels are cut off.
    assert np.quantile(difference, 0.99) < 1e-5


def test_only_one_block_more_can_grow():
    small = Generator(32, **FIELDS)
    for fields in ({"width": 4}, {"modulation": "self"}, {"sentence_scale": 2.0}):
        assert not growth.can_grow(small, Generator(64, **FIELDS | fields))
    assert not growth.can_grow(small, Generator(128, **FIELDS))
    assert not growth.can_grow(Generator(64, **FIELDS), small)
    assert not growth.can_grow(Generator(128, **FIELDS), Generator(256, **FIELDS))
    # 2 channels at 128 px hold no picture.
    assert not growth.can_grow(Generator(64, **FIELDS), Generator(128, **FIELDS))
    assert growth.can_grow(*(Generator(side, **FIELDS | {"width": 3}) for side in (64, 128)))
