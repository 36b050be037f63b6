"""Every configuration and every ablation row at full width: networks, state and training step.

Only shapes are computed, nothing is compiled. The frozen networks are stand-ins of real widths.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import optax
import pytest

import xmc_jax.experiment
from tests import small_step
from tests.places import ROOT
from xmc_jax.configs import ablations
from xmc_jax.frozen.image_features import ImageFeatures
from xmc_jax.frozen.text_encoder import TextEncoder
from xmc_jax.train_state import create_train_state

TEXT_WIDTHS = {"bert_base_en_uncased": 768, "minilm": 384}
TERMS = {"sentence", "word", "image_d", "image_pretrained"}
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*_[0-9]*.py"))
NAMES += [f"coco_256:{row}" for row in [*ablations.TERMS, *ablations.OTHERS]]


def get_config(name):
    name, _, row = name.partition(":")
    return importlib.import_module(f"configs.{name}").get_config(row)


def describe_text_encoder(name):
    width = TEXT_WIDTHS[name]
    table = jax.ShapeDtypeStruct((30_522, width), jnp.float32)
    return TextEncoder(small_step.encode_text, table, width, "", True)


def describe_image_features(network, weights, resolution):
    def apply(projection, images):
        return images.mean((1, 2)) @ projection

    return ImageFeatures(apply, jax.ShapeDtypeStruct((3, 512), jnp.float32), network, "")


@pytest.fixture
def describe(monkeypatch):
    for function in (describe_text_encoder, describe_image_features):
        monkeypatch.setattr(xmc_jax.experiment, function.__name__, function)
    return lambda config: xmc_jax.experiment.create_experiment(config, devices=jax.devices())


@functools.cache  # Most rows have the same networks.
def describe_outputs(generator, discriminator, b, t, d):
    """Shapes of the images and of the discriminator's outputs for a batch."""
    create = functools.partial(
        create_train_state,
        generator=generator,
        discriminator=discriminator,
        generator_tx=optax.adam(1e-4),
        discriminator_tx=optax.adam(1e-4),
        text_width=d,
    )

    def run(rng, z, words, mask):
        state, sentence = create(rng), words[:, 0]
        images = generator.apply(state.ema, z, words, sentence, mask, train=False)
        variables = {"params": state.discriminator, "spectral": state.spectral}
        return images, discriminator.apply(variables, images, sentence, train=False)

    inputs = jnp.zeros((b, generator.z_dim)), jnp.zeros((b, t, d)), jnp.ones((b, t), bool)
    return jax.eval_shape(run, jax.random.key(0), *inputs)


@pytest.mark.parametrize("name", NAMES)
def test_networks(describe, name):
    config = get_config(name)
    experiment = describe(config)
    b, d = config.batch_size, experiment.text_encoder.width
    images, output = describe_outputs(
        experiment.generator, experiment.discriminator, b, config.text.num_tokens, d
    )
    assert images.shape == (b, config.model.resolution, config.model.resolution, 3)
    assert output.logits.shape == (b,)
    assert output.embedding.shape == output.sentence.shape
    assert output.regions.shape == (b, config.model.region_resolution**2, d)
    assert {x.dtype for x in (images, *output)} == {jnp.dtype("float32")}


@pytest.mark.long  # A whole step takes seconds to trace; test_ablations has small ones.
@pytest.mark.parametrize("name", NAMES)
def test_training_step(describe, name):
    """It keeps the shapes of the state, and has a metric of every term of the config."""
    config = get_config(name)
    experiment = describe(config)
    arguments = experiment.abstract_step_arguments()
    state, metrics = experiment.jit_train_step().eval_shape(*arguments)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (arguments[0], state))
    assert before == after
    kept = {term for term in TERMS if config.loss[f"{term}_weight"]}
    assert {term for term in TERMS if f"g/{term}" in metrics} == kept
