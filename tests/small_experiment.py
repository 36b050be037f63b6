"""A small experiment as its configuration builds it: ``shapes_32`` at the smallest widths.

The frozen networks are those of `tests.small_step`.
"""

import functools
import tempfile

import jax

from tests import small_step
from xmc_jax.configs import shapes_32
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.experiment import Experiment
from xmc_jax.frozen.image_features import ImageFeatures
from xmc_jax.frozen.text_encoder import TextEncoder
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.parallel import sharding

BATCH = 16


def make_tokenizer():
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\n")
        file.flush()
        return Tokenizer(file.name, small_step.NUM_TOKENS)


@functools.cache
def make_experiment(row, num_devices=1):
    """A row of the ablation on the first devices."""
    config = shapes_32.get_config(row)
    config.batch_size = BATCH
    config.model.generator_width = config.model.discriminator_width = 1
    config.model.z_dim = 4
    config.d_steps = 1
    config.text.num_tokens = small_step.NUM_TOKENS
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    frozen = small_step.make_frozen()
    text = TextEncoder(small_step.encode_text, frozen.text, small_step.TEXT_WIDTH, "", True)
    image = ImageFeatures(small_step.image_features, frozen.image, "projection", "")
    if not config.loss.image_pretrained_weight:
        image, frozen = None, frozen._replace(image=None)
    return Experiment(
        config=config,
        mesh=mesh,
        generator=Generator(32, 1, 4, modulation=config.model.modulation),
        discriminator=Discriminator(32, 1, 8, config.model.contrastive_head),
        text_encoder=text,
        tokenizer=make_tokenizer(),
        image_features=image,
        frozen=sharding.put(frozen, sharding.replicated(mesh)),
    )
