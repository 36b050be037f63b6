"""The frozen text encoder: a BERT from keras-hub, as a pure function and its weights."""

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import kagglehub
import numpy as np
from jaxtyping import Array, Int32

from xmc_jax.errors import UserError
from xmc_jax.frozen import hub, presets, weights
from xmc_jax.frozen.wheels import TEXT_ENCODERS, text_encoder_folder
from xmc_jax.types import EncodedText, EncodeText, PyTree

if TYPE_CHECKING:
    import keras_hub

_FIELD = "config.text.encoder"
_KERAS_VOCABULARY = "assets/tokenizer/vocabulary.txt"
# Layers, heads and width of the English uncased presets, by the word after "bert_".
_PRESET_SIZES = {
    "tiny": (2, 2, 128),
    "small": (4, 8, 512),
    "medium": (8, 8, 512),
    "base": (12, 12, 768),
    "large": (24, 16, 1024),
}
_PRESET_VOCABULARY = 30_522


class TextEncoder(NamedTuple):
    """A frozen encoder.

    Attributes:
      apply: ``(params, tokens) -> (words, sentence, word_mask)``, pure, float32: the last hidden
        states, which are zero at padding; their mean over the valid tokens; and True at valid
        tokens, which are those other than 0. The amount of padding has no effect.
      params: Weights; pass them to jitted functions as arguments.
      width: ``d``, the length of the embeddings.
      vocabulary_file: WordPiece vocabulary, one piece per line.
      lowercase: Whether the vocabulary is uncased.
    """

    apply: EncodeText
    params: PyTree
    width: int
    vocabulary_file: str
    lowercase: bool


class Bert(NamedTuple):
    """The parts of an encoder's BERT, for those who build it anew.

    Attributes:
      weights: By keras-hub's names, ``transformer_layer_0/self_attention_layer/query/kernel``.
      num_layers: Number of layers.
      num_heads: Heads of each layer's attention.
      epsilon: Of all layer normalisations.
      exact_gelu: Whether GELU is exact, or approximated by a tanh.
    """

    weights: dict[str, np.ndarray]
    num_layers: int
    num_heads: int
    epsilon: float
    exact_gelu: bool


def load_text_encoder(name: str) -> TextEncoder:
    """Loads a frozen BERT.

    Args:
      name: ``"minilm"``, the packaged all-MiniLM-L6-v2; a folder in Hugging Face format
        (config.json, vocab.txt, model.safetensors) or of a keras-hub preset; or the name of a
        keras-hub preset, e.g. ``bert_base_en_uncased``, which Keras downloads.

    Raises:
      UserError: There is no such encoder, it is not a BERT, or its vocabulary does not fit.
    """
    preset, kind = name, "a BERT"
    if name in TEXT_ENCODERS:
        preset = str(text_encoder_folder(name, needed_by=f"{_FIELD}={name!r}"))
    backbone = presets.load_preset(
        hub.keras_hub.models.BertBackbone,
        preset,
        field=_FIELD,
        kind=kind,
        other_names=TEXT_ENCODERS,
    )
    preset = presets.location(preset)
    with presets.faults_named(preset, field=_FIELD, kind=kind):
        _match_activation(backbone, preset)
        vocabulary_file, lowercase = _vocabulary(preset)
        _check_vocabulary(vocabulary_file, backbone.vocabulary_size)
    return _wrap(backbone, vocabulary_file, lowercase)


def describe_text_encoder(name: str) -> TextEncoder:
    """An encoder with shapes for ``params``, for programs that are compiled but not run.

    The weights and the vocabulary of a preset that Keras would download need not be there.

    Raises:
      UserError: As `load_text_encoder`; or the sizes of the preset are not known here.
    """
    if name in TEXT_ENCODERS or Path(name).expanduser().is_dir():
        encoder = load_text_encoder(name)
    else:
        sizes = {f"bert_{size}_en_uncased": sizes for size, sizes in _PRESET_SIZES.items()}
        if name not in sizes:
            raise UserError(
                f"{_FIELD}={name!r} is neither a folder nor an encoder whose sizes are known "
                f"without its weights; known are {', '.join([*TEXT_ENCODERS, *sizes])}"
            )
        num_layers, num_heads, width = sizes[name]
        with weights.zero_initializers():
            backbone = hub.keras_hub.models.BertBackbone(
                vocabulary_size=_PRESET_VOCABULARY,
                num_layers=num_layers,
                num_heads=num_heads,
                hidden_dim=width,
                intermediate_dim=4 * width,
            )
        encoder = _wrap(backbone, vocabulary_file="", lowercase=True)
    return encoder._replace(params=jax.eval_shape(lambda: encoder.params))


def _wrap(
    backbone: "keras_hub.models.BertBackbone", vocabulary_file: str, lowercase: bool
) -> TextEncoder:
    return TextEncoder(
        apply=functools.partial(_encode, backbone),
        params=weights.params_of(backbone),
        width=backbone.hidden_dim,
        vocabulary_file=vocabulary_file,
        lowercase=lowercase,
    )


def describe_bert(encoder: TextEncoder) -> Bert:
    """The parts of an encoder that has its weights, and no projection."""
    (backbone,), (trainable, _) = encoder.apply.args, encoder.params
    names = [variable.path for variable in backbone.trainable_variables]
    layer = backbone.transformer_layers[0]
    activation = layer._feedforward_intermediate_dense.activation
    return Bert(
        weights=dict(zip(names, map(np.asarray, trainable), strict=True)),
        num_layers=backbone.num_layers,
        num_heads=backbone.num_heads,
        epsilon=layer.layer_norm_epsilon,
        # `_match_activation` has set what the exact one is.
        exact_gelu=not getattr(activation, "keywords", {}).get("approximate", True),
    )


def fingerprint(encoder: TextEncoder) -> str:
    """sha256 of the weights and of the vocabulary."""
    digest = hashlib.sha256(Path(encoder.vocabulary_file).read_bytes())
    digest.update(weights.fingerprint(encoder.params).encode())
    return digest.hexdigest()


def _encode(backbone, params: PyTree, tokens: Int32[Array, "b t"]) -> EncodedText:
    if tokens.shape[1] > backbone.max_sequence_length:
        raise UserError(
            f"config.text.num_tokens={tokens.shape[1]}: this encoder has positions for "
            f"{backbone.max_sequence_length} tokens"
        )
    word_mask = tokens != 0
    inputs = {"token_ids": tokens, "padding_mask": word_mask, "segment_ids": jnp.zeros_like(tokens)}
    valid = word_mask[..., None]
    words = jnp.where(valid, weights.call(backbone, params, inputs)["sequence_output"], 0.0)
    count = jnp.maximum(jnp.sum(valid, axis=1), 1)
    return words, jnp.sum(words, axis=1) / count, word_mask


def _match_activation(backbone, preset: str) -> None:
    """Gives a Hugging Face BERT the activation that its config names.

    keras-hub builds every BERT with the tanh approximation of GELU. The original networks use the
    exact one, and after a few layers the outputs differ in the third digit.
    """
    config = Path(preset) / "config.json"
    if not config.is_file() or "model_type" not in (fields := json.loads(config.read_text())):
        return  # A keras-hub preset, which was trained or checked with the approximation.
    approximate = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}
    name = fields.get("hidden_act", "gelu")  # The default of Hugging Face.
    if name not in approximate:
        raise UserError(f"{config}: hidden_act={name!r} is not a kind of GELU")
    activation = functools.partial(hub.keras.activations.gelu, approximate=approximate[name])
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = activation


def _vocabulary(preset: str) -> tuple[str, bool]:
    """The file of the vocabulary, and whether it is uncased."""
    folder = Path(preset)
    if (folder / "vocab.txt").is_file():
        settings = folder / "tokenizer_config.json"
        fields = json.loads(settings.read_text()) if settings.is_file() else {}
        return str(folder / "vocab.txt"), fields.get("do_lower_case", True)
    if folder.is_dir() and not (folder / _KERAS_VOCABULARY).is_file():
        raise UserError(f"{_FIELD}: {folder} has no vocabulary; put vocab.txt into it")
    # From the files of the preset: keras-hub's tokenizer does not know its path.
    fields = json.loads(_preset_file(preset, "tokenizer.json").read_text())["config"]
    return str(_preset_file(preset, _KERAS_VOCABULARY)), fields["lowercase"]


def _preset_file(preset: str, path: str) -> Path:
    """A file of a keras-hub preset, in its folder or in the cache of Keras' downloads."""
    if Path(preset).is_dir():
        return Path(preset) / path
    handle = hub.keras_hub.models.BertBackbone.presets[preset]["kaggle_handle"]
    return Path(kagglehub.model_download(handle.removeprefix("kaggle://"), path))


def _check_vocabulary(file: str, size: int) -> None:
    """Refuses a vocabulary that does not fit the encoder, which has no embeddings for its ids."""
    pieces = Path(file).read_text(encoding="utf-8").split("\n")
    count = len(pieces) - (pieces[-1] == "")
    if count > size:
        raise UserError(f"{file} has {count} word pieces, but its encoder has {size}")
    if pieces[0].strip() != "[PAD]":
        raise UserError(f"{file} begins with {pieces[0].strip()!r}; it must begin with '[PAD]'")
    if missing := {"[UNK]", "[CLS]", "[SEP]"} - {piece.strip() for piece in pieces}:
        raise UserError(f"{file} lacks {', '.join(sorted(missing))}; copy it again")
