"""A small training step: tiny networks, a table as text encoder, a projection as image network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import jaxprs_in_params

from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.objectives import LossWeights
from xmc_jax.train_state import create_train_state
from xmc_jax.train_step import FrozenParams, make_train_step
from xmc_jax.types import Batch

RESOLUTION, TEXT_WIDTH, NUM_TOKENS, VOCABULARY = 32, 6, 5, 50
GENERATOR = Generator(resolution=RESOLUTION, width=2, z_dim=4)
DISCRIMINATOR = Discriminator(resolution=RESOLUTION, width=2, region_resolution=8)
EMA_DECAY = 0.9
LEARNING_RATE = 1e-2
# Plain gradient descent: Adam would turn the rounding of a zero gradient into a full step.
TX = optax.sgd(LEARNING_RATE)


def encode_text(table, tokens):
    """A frozen text encoder: a table of embeddings."""
    mask = tokens != 0
    words = table[tokens] * mask[..., None]
    return words, words.sum(1) / mask.sum(1, keepdims=True), mask


def image_features(projection, images):
    """A frozen image network: one random projection."""
    return jnp.tanh(images.reshape(images.shape[0], -1) @ projection)


def make_frozen():
    rng = np.random.default_rng(1)
    return FrozenParams(
        text=jnp.float32(rng.normal(size=(VOCABULARY, TEXT_WIDTH))),
        image=jnp.float32(rng.normal(size=(RESOLUTION**2 * 3, 7)) / 30),
    )


def make_batch(d_steps=2, b=8, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (d_steps, b, NUM_TOKENS))
    tokens *= np.arange(NUM_TOKENS) < rng.integers(2, NUM_TOKENS + 1, (d_steps, b, 1))
    image = rng.integers(0, 256, (d_steps, b, RESOLUTION, RESOLUTION, 3))
    return Batch(image.astype(np.uint8), tokens.astype(np.int32))


@functools.cache
def make_state(generator=GENERATOR, discriminator=DISCRIMINATOR):
    """The state before the first step, computed once per process."""
    create = functools.partial(
        create_train_state,
        generator=generator,
        discriminator=discriminator,
        generator_tx=TX,
        discriminator_tx=TX,
        text_width=TEXT_WIDTH,
    )
    # One program instead of hundreds of small ones.
    return jax.jit(create)(jax.random.key(0))


def make_step(**options):
    """The training step of the small networks; options as in `make_train_step`."""
    defaults = {
        "generator": GENERATOR,
        "discriminator": DISCRIMINATOR,
        "generator_tx": TX,
        "discriminator_tx": TX,
        "encode_text": encode_text,
        "image_features": image_features,
        "loss_weights": LossWeights(1.0, 1.0, 1.0, 1.0),
        "ema_decay": EMA_DECAY,
        "flip": False,
    }
    return make_train_step(**defaults | options)


@functools.cache
def jitted_step():
    """The step without options, traced and compiled once per process."""
    return jax.jit(make_step())


def equations(jaxpr):
    """All equations of a jaxpr, including those of inner functions and loops."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def assert_close(got, want, rtol=1e-4, atol=1e-5):
    """Compares arrays by the norm of their difference; single entries may be mere rounding."""

    def check(path, x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error, bound = np.linalg.norm(x - y), rtol * np.linalg.norm(y) + atol * np.sqrt(y.size)
        assert error <= bound, f"{jax.tree_util.keystr(path)}: {error} > {bound}"

    jax.tree_util.tree_map_with_path(check, jax.device_get(got), jax.device_get(want))


def assert_same_updates(got, want, start):
    """Compares what a step added to each parameter, to 1 % of its norm.

    This allows for float32 rounding of gradients. Biases before a batch normalisation have an exact
    gradient of zero and fall under the absolute bound.
    """
    added = [
        jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), x, start) for x in (got, want)
    ]
    assert_close(*added, rtol=1e-2, atol=1e-6)


def assert_same_step(one, other):
    """Compares states and metrics after one step from `make_state`."""
    (state_1, metrics_1), (state_2, metrics_2) = one, other
    assert_close(metrics_1, metrics_2)
    for name in ("generator", "discriminator", "ema"):
        states = (state_1, state_2, make_state())
        assert_same_updates(*(jax.device_get(getattr(s, name)) for s in states))
    for name in ("generator_stats", "spectral"):
        assert_close(getattr(state_1, name), getattr(state_2, name))
