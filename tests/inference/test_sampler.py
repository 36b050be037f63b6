"""sampler.py: an image depends on its caption, the seed and its index, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_run
from tests.small_experiment import make_experiment
from tests.small_step import (
    GENERATOR,
    NUM_TOKENS,
    RESOLUTION,
    VOCABULARY,
    encode_text,
    make_batch,
    make_frozen,
    make_state,
)
from xmc_jax.inference.batches import batch_sizes, make_noise
from xmc_jax.inference.sampler import Sampler, make_sample_step


def test_noise_depends_on_seed_and_index_alone():
    whole = make_noise(8, 3, 7, 0)
    np.testing.assert_array_equal(whole[5:], make_noise(3, 3, 7, 5))
    assert np.all(np.any(np.asarray(whole)[1:] != np.asarray(whole)[:1], axis=1))
    assert np.any(whole != make_noise(8, 3, 8, 0))


def test_noise_is_standard_normal():
    z = np.asarray(make_noise(2000, 8, 0, 0))
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert z.dtype == np.float32


@pytest.mark.parametrize(
    ("largest", "num_devices", "sizes"),
    [
        (1, 1, (1,)),
        (100, 1, (1, 2, 7, 25, 100)),
        (64, 8, (8, 16, 64)),
        (3, 8, (8,)),
        (17, 8, (8, 24)),
    ],
)
def test_batch_sizes(largest, num_devices, sizes):
    assert batch_sizes(largest, num_devices) == sizes


def test_any_number_of_captions_few_programs_same_images():
    """Two devices, batches of eight, one to twenty captions."""
    experiment = make_experiment("none", num_devices=2)
    ema = small_run.draw_state(experiment.abstract_ema())
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, (20, NUM_TOKENS)).astype(np.int32)
    sampler = Sampler(experiment, 8)
    whole = sampler(ema, tokens, seed=3)
    assert whole.shape == (20, 32, 32, 3) and len(np.unique(whole)) > 20
    for count in (1, 2, 3, 7, 8, 9, 12):
        part = sampler(ema, tokens[:count], seed=3)
        assert np.abs(part.astype(int) - whole[:count]).max() <= 1
    assert sampler._step._cache_size() <= len(batch_sizes(8, 2)) == 2
    shifted = sampler(ema, tokens[5:9], seed=3, first_index=5)
    assert np.abs(shifted.astype(int) - whole[5:9]).max() <= 1


def test_images_come_from_both_averages():
    text = make_frozen().text
    ema = make_state().ema
    sample = jax.jit(make_sample_step(generator=GENERATOR, encode_text=encode_text))
    tokens, z = make_batch().tokens[0], jax.random.normal(jax.random.key(0), (8, 4))
    base = sample(ema, text, tokens, z)
    assert base.shape == (8, RESOLUTION, RESOLUTION, 3) and base.dtype == jnp.uint8
    for name in ("params", "batch_stats"):
        changed = ema | {name: jax.tree.map(lambda x: 2 * x + 1, ema[name])}
        assert np.any(sample(changed, text, tokens, z) != base)
