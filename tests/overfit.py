"""A tiny model overfits 16 captioned images; prints what it has learned, as JSON.

    python -m tests.overfit 3 900    # Width of the generator, steps.

`test_learning` runs it in a process of its own, whose programs are compiled to run fast.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xmc_jax import images
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.objectives import LossWeights
from xmc_jax.shapes import captions, scenes
from xmc_jax.shapes.accuracy import count_claims, summarise
from xmc_jax.shapes.parser import make_parser
from xmc_jax.train_state import create_train_state, make_optimizer
from xmc_jax.train_step import FrozenParams, make_train_step
from xmc_jax.types import Batch

N, SIDE, NUM_TOKENS, TEXT_WIDTH = 16, 32, 12, 32
KINDS = ("location", "background", "count", "exists")  # Of captions, in turn.


def examples():
    """The captions, and their images, 0..255."""
    made = [captions.make_example("train", index, "one") for index in range(N)]
    chosen = [
        next(c for c in example.captions if c.form["type"] == KINDS[index % len(KINDS)])
        for index, example in enumerate(made)
    ]
    return chosen, np.stack([scenes.render(example.scene, SIDE, "one") for example in made])


def tokenize(texts):
    """Words by number from 1, filled up with 0; and the number of words."""
    numbers, tokens = {}, np.zeros((len(texts), NUM_TOKENS), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        words = [numbers.setdefault(word, len(numbers) + 1) for word in text.split()]
        row[: len(words)] = words
    return tokens, len(numbers)


def encode(table, tokens):
    """A frozen text encoder: a vector for each word, and their mean as the sentence."""
    mask = tokens != 0
    words = table[tokens] * mask[..., None]
    return words, words.sum(1) / jnp.sqrt(mask.sum(1, keepdims=True)), mask


def overfit(width, num_steps):
    """Trains, and returns the shares of captions that are drawn right and that find their image."""
    chosen, real = examples()
    tokens, num_words = tokenize([caption.text for caption in chosen])
    table = jnp.float32(np.random.default_rng(0).normal(size=(num_words + 1, TEXT_WIDTH)))
    generator = Generator(SIDE, width=width, z_dim=16, first_layer="noise_and_sentence")
    players = {
        "generator": generator,
        "discriminator": Discriminator(SIDE, width=8, region_resolution=8),
        "generator_tx": make_optimizer("muon", 1.5e-3, beta1=0.7, beta2=0.999),
        "discriminator_tx": make_optimizer("muon", 5e-4, beta1=0.7, beta2=0.999),
    }
    half = num_steps // 2
    train_step = make_train_step(
        **players,
        encode_text=encode,
        loss_weights=LossWeights(sentence=1.0, word=1.0, image_d=0.3, image_pretrained=0.0),
        r1_weight=1.0,
        ema_decay=0.98,
        flip=False,
        rate_factor=lambda s: optax.cosine_decay_schedule(1.0, half)(jnp.maximum(s - half, 0)),
        instance_noise=lambda s: 0.3 * jnp.maximum(1 - s / num_steps, 0),
    )
    init = functools.partial(create_train_state, **players, text_width=TEXT_WIDTH)
    state, step = jax.jit(init)(jax.random.key(0)), jax.jit(train_step, donate_argnums=0)
    batch, frozen, rng = Batch(real[None], tokens[None]), FrozenParams(table), jax.random.key(1)
    for _ in range(num_steps):
        state, metrics = step(state, batch, frozen, rng)
    z = jax.random.normal(jax.random.key(2), (N, generator.z_dim))
    drawn = generator.apply(state.ema, z, *encode(table, jnp.asarray(tokens)), train=False)
    drawn = np.asarray(images.to_uint8(drawn))
    distances = ((drawn[:, None].astype(float) - real[None]) ** 2).sum((2, 3, 4))
    parsed = make_parser(SIDE, "one")(drawn)
    correct = summarise(count_claims(parsed, [(caption.form,) for caption in chosen]))
    return {
        "all_correct": correct["all_correct"].value,
        "nearest_is_its_own": float(np.mean(distances.argmin(1) == np.arange(N))),
        "d/sentence_accuracy": float(metrics["d/sentence_accuracy"]),
        "g/sentence_accuracy": float(metrics["g/sentence_accuracy"]),
    }


if __name__ == "__main__":
    print(json.dumps(overfit(*map(int, sys.argv[1:]))))
