"""caption_cache.py: the encoder's numbers, each caption encoded once, a bounded memory."""

import jax
import numpy as np
import pytest

from tests import small_step
from xmc_jax.errors import UserError
from xmc_jax.training.caption_cache import CaptionCache


@pytest.fixture
def calls():
    """Tokens that were encoded."""
    return []


@pytest.fixture
def make_cache(calls):
    def encode(params, tokens):
        jax.debug.callback(lambda x: calls.append(np.asarray(x).tolist()), tokens)
        return small_step.encode_text(params, tokens)

    def make(capacity):
        return CaptionCache(
            encode,
            jax.tree.map(jax.numpy.asarray, small_step.make_frozen().text),
            capacity=capacity,
            num_tokens=small_step.NUM_TOKENS,
            width=small_step.TEXT_WIDTH,
        )

    return make


def test_the_embeddings_are_the_encoders(make_cache):
    batch = small_step.make_batch()
    cached = make_cache(100)(batch)
    assert cached.image is batch.image
    frozen = small_step.make_frozen()
    for index, tokens in enumerate(batch.tokens):
        want = small_step.encode_text(frozen.text, tokens)
        for a, b in zip(cached.tokens, want, strict=True):
            np.testing.assert_allclose(a[index], b, atol=1e-6)
            assert a.dtype == b.dtype


def test_each_caption_is_encoded_once_and_the_oldest_are_forgotten(make_cache, calls):
    batch = small_step.make_batch(1)
    rows = np.repeat(np.arange(1, 5, dtype=np.int32)[:, None], small_step.NUM_TOKENS, axis=1)

    def use(*indices):
        before = len(calls)
        cache(batch._replace(tokens=rows[None, list(indices)]))
        jax.effects_barrier()
        return [call[0][0] - 1 for call in calls[before:]]

    cache = make_cache(3)
    assert use(0, 1, 0, 1) == [0, 1]
    assert use(2, 0) == [2]
    assert use(3) == [3]  # 1 is the one used least recently.
    assert use(0, 2, 3) == []
    assert use(1) == [1]


def test_order_and_company_change_no_bit(make_cache):
    batch = small_step.make_batch(1)
    whole = make_cache(100)(batch).tokens
    backwards = make_cache(1)(batch._replace(tokens=batch.tokens[:, ::-1])).tokens
    for a, b in zip(whole, backwards, strict=True):
        np.testing.assert_array_equal(a, b[:, ::-1])


def test_more_than_the_memory_is_refused_in_one_line(make_cache):
    with pytest.raises(UserError, match="cached_captions=1000000000 would take .* use at most"):
        make_cache(10**9)
