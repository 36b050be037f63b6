"""whitening.py and text_projection.py: the closed form, the encoder with it, and its file."""

import jax
import numpy as np
import pytest
from etils import epath

from tests import small_step
from xmc_jax.errors import UserError
from xmc_jax.frozen import text_projection, whitening
from xmc_jax.frozen.text_encoder import TextEncoder, fingerprint

WIDTH = 3


@pytest.fixture
def captions(rng):
    """Words, sentences and word masks with strong directions and means far from zero."""
    mixing = rng.normal(size=(6, 6)) * np.array([5, 3, 1, 0.5, 0.1, 0])[:, None]
    words = np.float32(rng.normal(size=(200, 4, 6)) @ mixing + 7)
    mask = np.arange(4)[None] < rng.integers(1, 5, (200, 1))
    words = np.where(mask[..., None], words, 0)
    return words, words.sum(1) / mask.sum(1, keepdims=True), mask


def test_projected_axes_are_uncorrelated_and_damped_whitened(captions):
    words, sentence, mask = captions
    projection = whitening.fit(*captions, WIDTH)
    for x, mean, kernel in (
        (words[mask], projection.word_mean, projection.word_kernel),
        (sentence, projection.sentence_mean, projection.sentence_kernel),
    ):
        got = (x.astype(np.float64) - mean) @ kernel
        centred = x - x.mean(0, dtype=np.float64)
        variances = np.linalg.eigvalsh(centred.T @ centred / len(x))[::-1]
        whitened = (variances / (variances + 0.02 * variances[0]))[:WIDTH]
        np.testing.assert_allclose(got.mean(0), 0, atol=1e-4)
        covariance = got.T @ got / len(x)
        scale = variances.sum() / whitened.sum()  # Keeps the mean squared length.
        np.testing.assert_allclose(covariance, np.diag(scale * whitened), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            np.sum(got**2, 1).mean(), np.sum(centred**2, 1).mean(), rtol=1e-4
        )


def test_the_fit_depends_on_no_sign_of_eigenvectors(captions):
    words, sentence, mask = captions
    projection = whitening.fit(*captions, 6)
    largest = np.argmax(np.abs(projection.sentence_kernel), axis=0)
    assert np.all(projection.sentence_kernel[largest, range(6)] > 0)
    order = np.random.default_rng(1).permutation(len(words))
    again = whitening.fit(words[order], sentence[order], mask[order], 6)
    for a, b in zip(projection, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_the_encoder_projects_words_and_sentences_and_keeps_padding_zero(captions):
    frozen, tokens = small_step.make_frozen(), small_step.make_batch(1).tokens[0]
    encoder = TextEncoder(small_step.encode_text, frozen.text, small_step.TEXT_WIDTH, "", True)
    words, sentence, mask = jax.device_get(encoder.apply(encoder.params, tokens))
    projection = whitening.fit(words, sentence, mask, WIDTH)
    projected = text_projection.project(encoder, projection)
    assert projected.width == WIDTH
    got = jax.jit(projected.apply)(projected.params, tokens)
    want = (words - projection.word_mean) @ projection.word_kernel
    np.testing.assert_allclose(got[0], np.where(mask[..., None], want, 0), atol=1e-4)
    want = (sentence - projection.sentence_mean) @ projection.sentence_kernel
    np.testing.assert_allclose(got[1], want, atol=1e-4)
    np.testing.assert_array_equal(got[2], mask)


def test_fingerprints_tell_projections_apart(tmp_path, captions):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n")
    frozen = small_step.make_frozen()
    encoder = TextEncoder(small_step.encode_text, frozen.text, 6, str(vocabulary), True)
    projection = whitening.fit(*captions, WIDTH)
    other = projection._replace(word_mean=projection.word_mean + 1)
    found = {fingerprint(text_projection.project(encoder, x)) for x in (projection, other)}
    assert len(found | {fingerprint(encoder)}) == 3


def test_the_file_gives_back_every_number(tmp_path, captions):
    path = epath.Path(tmp_path) / "text.safetensors"
    projection = whitening.fit(*captions, WIDTH)
    text_projection.write(path, projection)
    for a, b in zip(text_projection.read(path, WIDTH), projection, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_projection_that_does_not_fit_is_one_line(tmp_path, captions):
    path = epath.Path(tmp_path) / "text.safetensors"
    with pytest.raises(UserError, match="projection=4 needs it: copy the whole folder"):
        text_projection.read(path, 4)
    text_projection.write(path, whitening.fit(*captions, WIDTH))
    with pytest.raises(UserError, match="to 3 dimensions, but config.text.projection=4"):
        text_projection.read(path, 4)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="is damaged"):
        text_projection.read(path, WIDTH)
    with pytest.raises(UserError, match="projection=7 is wider than the text encoder's 6"):
        text_projection.check_width(7, 6)
