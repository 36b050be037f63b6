"""text_encoder.py and tokenizer.py against recorded results of the original implementation."""

import jax
import jax.numpy as jnp
import kagglehub
import numpy as np
import pytest
import scipy.special
from jax.sharding import AxisType, PartitionSpec

from tests import bert, places
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.errors import UserError
from xmc_jax.frozen import hub
from xmc_jax.frozen.text_encoder import load_text_encoder

GOLDEN = np.load(places.GOLDEN / "minilm_text.npz")
CAPTIONS = [caption.decode() for caption in GOLDEN["captions"]]
LENGTHS = (17, 40)


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
    valid = tokens != 0
    assert np.max(np.abs(words[valid] - GOLDEN[f"words_{length}"])) < 1e-4
    assert np.all(words[~valid] == 0)
    assert np.max(np.abs(sentence - GOLDEN[f"sentence_{length}"])) < 1e-4


def test_padding_of_any_length_changes_nothing(minilm):
    tokens = jnp.asarray(GOLDEN["tokens_17"][:4])
    short = minilm.apply(minilm.params, tokens)
    longer = minilm.apply(minilm.params, jnp.pad(tokens, ((0, 0), (0, 7))))
    np.testing.assert_allclose(short[0], longer[0][:, :17], atol=2e-6)
    np.testing.assert_allclose(short[1], longer[1], atol=2e-6)
    assert np.all(np.asarray(longer[0])[:, 17:] == 0)


def test_weights_are_arguments(minilm):
    tokens = jnp.asarray(GOLDEN["tokens_17"][:2])
    closed = jax.make_jaxpr(minilm.apply)(minilm.params, tokens)
    assert sum(np.size(c) for c in closed.consts) < 1000
    doubled = jax.tree.map(lambda x: 2 * x, minilm.params)
    assert (
        np.max(np.abs(minilm.apply(doubled, tokens)[1] - minilm.apply(minilm.params, tokens)[1]))
        > 0.1
    )


def test_nothing_is_random_and_shards_equal_the_whole(minilm):
    tokens = jnp.asarray(GOLDEN["tokens_17"][:8])
    assert "random" not in str(jax.make_jaxpr(minilm.apply)(minilm.params, tokens))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = PartitionSpec(), PartitionSpec("data")
    sharded = jax.shard_map(minilm.apply, mesh=mesh, in_specs=(whole, split), out_specs=split)
    for got, want in zip(
        jax.jit(sharded)(minilm.params, tokens), minilm.apply(minilm.params, tokens), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_more_tokens_than_positions_are_refused_in_one_line(minilm):
    with pytest.raises(UserError, match="num_tokens=513: this encoder has positions for 512"):
        jax.eval_shape(minilm.apply, minilm.params, jnp.ones((1, 513), jnp.int32))


def make_backbone(vocabulary_size):
    return hub.keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=16,
    )


@pytest.fixture
def keras_preset(tmp_path):
    folder = tmp_path / "preset"
    backbone = make_backbone(len(bert.VOCABULARY))
    backbone.save_to_preset(folder)
    hub.keras_hub.models.BertTokenizer(vocabulary=bert.VOCABULARY, lowercase=True).save_to_preset(
        folder
    )
    return folder, backbone


def check_keras_preset(encoder, backbone):
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


def test_a_keras_hub_preset_folder(keras_preset):
    folder, backbone = keras_preset
    check_keras_preset(load_text_encoder(str(folder)), backbone)


def test_a_keras_hub_preset_by_name(keras_preset, monkeypatch):
    """Keras downloads single files through kagglehub, which is replaced by a folder here."""
    folder, backbone = keras_preset

    def download(handle, path):
        assert handle.startswith("keras/bert/keras/bert_tiny_en_uncased/")
        return str(folder / path)

    monkeypatch.setattr(kagglehub, "model_download", download)
    check_keras_preset(load_text_encoder("bert_tiny_en_uncased"), backbone)

    def unreachable(handle, path):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(kagglehub, "model_download", unreachable)
    with pytest.raises(UserError, match="could not be downloaded: no route to host$"):
        load_text_encoder("bert_tiny_en_uncased")


def bert_by_hand(w, tokens, gelu):
    """Devlin et al. 2018 on one unpadded row, in float64."""

    def dense(x, name):
        return x @ w[name + ".weight"].astype(float).T + w[name + ".bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        return x * w[name + ".weight"] + w[name + ".bias"]

    e = "embeddings."
    x = w[e + "word_embeddings.weight"][tokens] + w[e + "token_type_embeddings.weight"][0]
    x = norm(x + w[e + "position_embeddings.weight"][: len(tokens)], e + "LayerNorm")
    for i in range(2):
        query, key, value, out, intermediate, last = (f"encoder.layer.{i}.{b}" for b in bert.BLOCK)
        q, k, v = (dense(x, n).reshape(-1, 2, 4) for n in (query, key, value))
        attention = scipy.special.softmax(np.einsum("qhc,khc->hqk", q, k) / 2, axis=-1)
        mixed = np.einsum("hqk,khc->qhc", attention, v).reshape(-1, 8)
        x = norm(x + dense(mixed, out), f"encoder.layer.{i}.attention.output.LayerNorm")
        hidden = gelu(dense(x, intermediate))
        x = norm(x + dense(hidden, last), f"encoder.layer.{i}.output.LayerNorm")
    return x


def exact_gelu(x):
    return x * scipy.special.ndtr(x)


def tanh_gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    "hidden_act,gelu,prefix",
    [("gelu", exact_gelu, "bert."), (None, exact_gelu, ""), ("gelu_new", tanh_gelu, "")],
)
def test_a_hugging_face_folder_equals_bert_by_hand(tmp_path, rng, hidden_act, gelu, prefix):
    weights = bert.weights(rng)
    config = {**bert.CONFIG, "hidden_act": hidden_act}
    if hidden_act is None:
        del config["hidden_act"]
    encoder = load_text_encoder(bert.write(tmp_path, weights, config, prefix=prefix))
    tokens = jnp.array([[2, 5, 6, 7, 3, 0, 0], [2, 6, 3, 0, 0, 0, 0]], jnp.int32)
    words, sentence, mask = jax.jit(encoder.apply)(encoder.params, tokens)
    for row, n in enumerate((5, 3)):
        want = bert_by_hand(weights, np.asarray(tokens[row, :n]), gelu)
        np.testing.assert_allclose(words[row, :n], want, atol=2e-5)
        np.testing.assert_allclose(sentence[row], want.mean(0), atol=2e-5)
    assert mask.sum() == 8 and encoder.width == 8 and encoder.lowercase


def test_a_cased_hugging_face_folder(tmp_path, rng):
    folder = bert.write(tmp_path, bert.weights(rng))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not load_text_encoder(folder).lowercase


def refusal(folder):
    with pytest.raises(UserError) as error:
        load_text_encoder(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_faulty_hugging_face_folders_are_refused_in_one_line(tmp_path, rng):
    weights = bert.weights(rng)
    folder = tmp_path / "bert"
    bert.write(folder, weights, {**bert.CONFIG, "hidden_act": "relu"})
    assert "hidden_act='relu' is not a kind of GELU" in refusal(folder)
    bert.write(folder, weights, {**bert.CONFIG, "model_type": "roberta"})
    assert "does not hold a BERT: Saved preset has type `RobertaBackbone`" in refusal(folder)
    bert.write(folder, weights, vocabulary=[*bert.VOCABULARY, "more"])
    assert "has 9 word pieces, but its encoder has 8" in refusal(folder)
    bert.write(folder, weights, vocabulary=bert.VOCABULARY[1:])
    assert "begins with '[UNK]'; it must begin with '[PAD]'" in refusal(folder)
    bert.write(folder, {k: w for k, w in weights.items() if k != "pooler.dense.bias"})
    assert "File does not contain tensor pooler.dense.bias" in refusal(folder)
    bert.write(folder, weights)
    load_text_encoder(str(folder))
    bert.write(folder, weights, vocabulary=bert.VOCABULARY[:2])
    assert "vocab.txt lacks [CLS], [SEP]; copy it again" in refusal(folder)
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text("{}")
    assert "has no vocabulary; put vocab.txt into it" in refusal(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "does not hold a BERT" in refusal(folder)


def test_a_missing_folder_is_refused_in_one_line():
    with pytest.raises(UserError, match="text.encoder='/no/such' is neither the folder.*minilm"):
        load_text_encoder("/no/such")


def test_a_folder_without_a_bert_is_refused_in_one_line(tmp_path):
    assert "does not hold a BERT" in refusal(tmp_path)
