"""Every row of the ablation, as its configuration builds it: what it computes and leaves out.

Two devices, real configurations at the smallest widths; a table of embeddings stands for the text
encoder, and the mean colour for the pretrained network.
"""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xmc_jax.experiment
from configs import ablations, shapes_32
from tests import small_run
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.experiment import Experiment
from xmc_jax.frozen.image_features import ImageFeatures
from xmc_jax.frozen.text_encoder import TextEncoder
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.parallel import sharding
from xmc_jax.train_state import create_train_state
from xmc_jax.train_step import FrozenParams
from xmc_jax.types import Batch

TEXT_WIDTH, VOCABULARY, BATCH, NUM_TOKENS = 6, 50, 16, 5
ROWS = [*ablations.TERMS, *ablations.OTHERS]
# Each compiles a step of its own; those of the other rows are parts of these.
SHORT_ROWS = {"none", "all", "s_w_d", "self_modulation", "mlp_head", "linear_head"}
SHORT_ROWS |= {"per_device_negatives"}
METRIC_OF = {"s": "sentence", "w": "word", "d": "image_d", "vgg": "image_pretrained"}


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


def make_batch(experiment, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (1, BATCH, 32, 32, 3))
    tokens = rng.integers(1, VOCABULARY, (1, BATCH, NUM_TOKENS))
    return sharding.put_batch(
        Batch(np.uint8(pixels), np.int32(tokens)), experiment.mesh, batch_axis=1
    )


@functools.cache
def lower_step(row):
    """A step as it is given to the compiler."""
    experiment = make_experiment(row)
    return experiment.jit_train_step().lower(*experiment.abstract_step_arguments())


@functools.cache
def count_flops(row):
    """Floating-point operations of a step."""
    return lower_step(row).cost_analysis()["flops"]


@functools.cache
def run(row):
    """The metrics of two steps."""
    experiment = make_experiment(row)
    state, step = small_run.draw_state(experiment.abstract_state()), lower_step(row).compile()
    for batch in [make_batch(experiment, seed) for seed in range(2)]:
        state, metrics = step(state, batch, experiment.frozen, jax.random.key(1))
    return jax.device_get(metrics)


@pytest.mark.parametrize(
    "row", [row if row in SHORT_ROWS else pytest.param(row, marks=pytest.mark.long) for row in ROWS]
)
def test_row_trains(row):
    """Finite losses, and a metric of every term that the row has and of no other."""
    metrics = run(row)
    assert all(np.isfinite(value) for value in metrics.values())
    terms = ablations.TERMS.get(row, ("s", "w", "d"))  # What shapes_32 has as it is.
    kept = {METRIC_OF[term] for term in terms}
    assert {name for name in METRIC_OF.values() if f"g/{name}" in metrics} == kept
    assert {name for name in METRIC_OF.values() if f"d/{name}" in metrics} == kept & {
        "sentence",
        "word",
    }


@pytest.mark.parametrize("row", [row for row, terms in ablations.TERMS.items() if terms])
def test_a_term_left_out_is_not_computed(row):
    """Each row costs more than every row whose terms it contains."""
    for other, terms in ablations.TERMS.items():
        if set(terms) < set(ablations.TERMS[row]):
            assert count_flops(other) < count_flops(row), (other, row)


def test_initialising_the_state_is_traced_once(monkeypatch):
    """Shapes, shardings and the step's own arguments come of one tracing."""
    traced = []

    def create(*args, **parts):
        traced.append(args)
        return create_train_state(*args, **parts)

    monkeypatch.setattr(xmc_jax.experiment, "create_train_state", create)
    experiment = make_experiment.__wrapped__("none")
    experiment.abstract_step_arguments()
    experiment.jit_train_step()
    assert len(traced) == 1


def test_plain_self_modulation_drops_the_attention():
    rows = "s_w_d", "self_modulation"
    base, ablated = map(count_flops, rows)
    assert ablated < base
    names = [set(make_experiment(row).abstract_state().generator) for row in rows]
    assert names[0] - names[1] == {"query"}


def test_heads_add_layers_to_the_discriminator_alone():
    counts = {}
    for row in ("s_w_d", "linear_head", "mlp_head"):
        state = make_experiment(row).abstract_state()
        counts[row] = [len(jax.tree.leaves(x)) for x in (state.discriminator, state.generator)]
    assert counts["linear_head"][0] - counts["s_w_d"][0] == 4  # Two layers: kernel and bias.
    assert counts["mlp_head"][0] - counts["linear_head"][0] == 4
    assert len({generator for _, generator in counts.values()}) == 1


def test_per_device_negatives_are_fewer():
    """Against half of the captions the cross-entropy of a guess is lower by two log 2."""
    whole, halves = (run(row)["g/sentence"] for row in ("s_w_d", "per_device_negatives"))
    assert halves < whole
