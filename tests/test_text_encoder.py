"""text_encoder.py and tokenizer.py against the original implementation's golden numbers."""

import pathlib

import jax
import jax.numpy as jnp
import keras_hub
import numpy as np
import pytest

from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.frozen.text_encoder import load_text_encoder
from xmc_jax.types import UserError

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "minilm_text.npz")
CAPTIONS = [caption.decode() for caption in GOLDEN["captions"]]
LENGTHS = (24, 40)


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder("minilm")


@pytest.mark.parametrize("length", LENGTHS)
def test_token_ids_equal_the_original_tokenizer(minilm, length):
    tokenizer = Tokenizer(minilm.vocabulary_file, length, minilm.lowercase)
    for caption, got, want in zip(
        CAPTIONS, tokenizer(CAPTIONS), GOLDEN[f"tokens_{length}"], strict=True
    ):
        np.testing.assert_array_equal(got, want, err_msg=caption)


@pytest.mark.parametrize("length", LENGTHS)
def test_embeddings_equal_the_original_network(minilm, length):
    tokens = GOLDEN[f"tokens_{length}"]
    words, sentence, mask = jax.jit(minilm.apply)(minilm.params, tokens)
    assert len(tokens) >= 20 and words.shape == (*tokens.shape, minilm.width) == (
        len(tokens),
        length,
        384,
    )
    np.testing.assert_array_equal(mask, tokens != 0)
    assert np.max(np.abs(words[..., ::4] - GOLDEN[f"words_{length}"])) < 1e-4
    assert np.max(np.abs(sentence - GOLDEN[f"sentence_{length}"])) < 1e-4


def test_padding_of_any_length_changes_nothing(minilm):
    tokens = jnp.asarray(GOLDEN["tokens_24"][:4])
    short = minilm.apply(minilm.params, tokens)
    longer = minilm.apply(minilm.params, jnp.pad(tokens, ((0, 0), (0, 7))))
    np.testing.assert_allclose(short[0], longer[0][:, :24], atol=2e-6)
    np.testing.assert_allclose(short[1], longer[1], atol=2e-6)
    assert np.all(np.asarray(longer[0])[:, 24:] == 0)


def test_weights_are_arguments(minilm):
    tokens = jnp.asarray(GOLDEN["tokens_24"][:2])
    closed = jax.make_jaxpr(minilm.apply)(minilm.params, tokens)
    assert sum(np.size(c) for c in closed.consts) < 1000
    doubled = jax.tree.map(lambda x: 2 * x, minilm.params)
    assert (
        np.max(np.abs(minilm.apply(doubled, tokens)[1] - minilm.apply(minilm.params, tokens)[1]))
        > 0.1
    )


def make_backbone(vocabulary_size):
    return keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=16,
    )


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "circle", "##s"]


def test_a_keras_hub_preset_folder(tmp_path):
    backbone = make_backbone(len(VOCABULARY))
    backbone.save_to_preset(tmp_path / "preset")
    keras_hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True).save_to_preset(
        tmp_path / "preset"
    )
    encoder = load_text_encoder(str(tmp_path / "preset"))
    tokens = Tokenizer(encoder.vocabulary_file, 6, encoder.lowercase)(["Red circles"])
    np.testing.assert_array_equal(tokens, [[2, 5, 6, 7, 3, 0]])
    words, _, _ = jax.jit(encoder.apply)(encoder.params, tokens)
    inputs = {
        "token_ids": tokens,
        "padding_mask": tokens != 0,
        "segment_ids": np.zeros_like(tokens),
    }
    with jax.numpy_rank_promotion("allow"):
        want = backbone(inputs)["sequence_output"]
    np.testing.assert_allclose(words[:, :5], np.asarray(want)[:, :5], atol=1e-6)
    assert encoder.width == 8


def test_a_hugging_face_folder(tmp_path, minilm):
    folder = pathlib.Path(minilm.vocabulary_file).parent
    for name in ("config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    encoder = load_text_encoder(str(tmp_path))
    tokens = jnp.asarray(GOLDEN["tokens_24"][:2])
    got, want = (jax.jit(e.apply)(e.params, tokens)[1] for e in (encoder, minilm))
    np.testing.assert_array_equal(got, want)
    assert (encoder.width, encoder.lowercase) == (384, True)

    (tmp_path / "model.safetensors").unlink()
    weights = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="is not a BERT") as error:
        load_text_encoder(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_one_clear_line():
    with pytest.raises(UserError, match="text.encoder='/no/such' is neither a folder.*minilm"):
        load_text_encoder("/no/such")


def test_a_folder_without_a_bert_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="is not a BERT") as error:
        load_text_encoder(str(tmp_path))
    assert "\n" not in str(error.value)
