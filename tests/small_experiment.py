"""Experiments of shapes_32 at the smallest widths, with stand-ins for the frozen networks.

A table of embeddings replaces the text encoder, and the mean colour replaces the image features.
"""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from configs import shapes_32
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.experiment import Experiment
from xmc_jax.frozen.image_features import ImageFeatures
from xmc_jax.frozen.text_encoder import TextEncoder
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.parallel import sharding
from xmc_jax.train_step import FrozenParams

TEXT_WIDTH, VOCABULARY, BATCH, NUM_TOKENS = 6, 50, 16, 5


def encode_text(params, tokens):
    mask = tokens != 0
    words = params[tokens] * mask[..., None]
    return words, words.sum(1) / mask.sum(1, keepdims=True), mask


def image_features(params, images):
    return jnp.tanh(images.mean((1, 2)) @ params)


def make_tokenizer():
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\n")
        file.flush()
        return Tokenizer(file.name, NUM_TOKENS)


@functools.cache
def make_experiment(row, num_devices=1):
    """The experiment of an ablation row, an argument of `shapes_32.get_config`."""
    config = shapes_32.get_config(row)
    config.batch_size = BATCH
    config.model.generator_width = config.model.discriminator_width = 1
    config.model.z_dim = 4
    config.d_steps = 1
    config.text.num_tokens = NUM_TOKENS
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    rng = np.random.default_rng(0)
    text = TextEncoder(
        encode_text, jnp.float32(rng.normal(size=(VOCABULARY, TEXT_WIDTH))), TEXT_WIDTH, "", True
    )
    image = ImageFeatures(image_features, jnp.float32(rng.normal(size=(3, 7))), "mean colour", "")
    wants_image = bool(config.loss.image_pretrained_weight)
    return Experiment(
        config=config,
        mesh=mesh,
        generator=Generator(32, 1, 4, modulation=config.model.modulation),
        discriminator=Discriminator(32, 1, 8, config.model.contrastive_head),
        text_encoder=text,
        tokenizer=make_tokenizer(),
        image_features=image if wants_image else None,
        frozen=sharding.put(
            FrozenParams(text.params, image.params if wants_image else None),
            sharding.replicated(mesh),
        ),
    )
