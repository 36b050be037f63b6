"""A frozen CLIP (Radford et al. 2021): a keras-hub preset as two pure functions and weights.

It measures how well images fit captions, see `metrics.r_precision`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int32

from xmc_jax.errors import UserError
from xmc_jax.frozen import hub, presets, weights
from xmc_jax.types import PyTree

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # Of pixels in [0, 1], from OpenAI's release.
_STD = (0.26862954, 0.26130258, 0.27577711)
_SCALING = presets.standardise(_MEAN, _STD)


class Clip(NamedTuple):
    """A frozen CLIP. An image and a caption fit if their embeddings have a large cosine.

    Attributes:
      embed_images: ``(image_params, images in [-1, 1]) -> embeddings``, pure. Square images of any
        size are resized to that of the network (bicubic, antialiased, as for the original CLIP).
      embed_captions: ``(caption_params, tokens) -> embeddings``, pure.
      tokenize: Captions to token ids, ``<|startoftext|> pieces <|endoftext|>`` padded with 0. White
        space is collapsed, and captions that are too long are cut.
      image_params: Weights; pass them to jitted functions as arguments.
      caption_params: Likewise.
      side: Side in pixels of the images that the network takes.
      name: The name of the preset or of its folder.
      fingerprint: sha256 of the weights of both towers.
    """

    embed_images: Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b d"]]
    embed_captions: Callable[[PyTree, Int32[Array, "b t"]], Float[Array, "b d"]]
    tokenize: Callable[[Sequence[str]], Int32[np.ndarray, "b t"]]
    image_params: PyTree
    caption_params: PyTree
    side: int
    name: str
    fingerprint: str


def load_clip(preset: str, *, field: str = "preset") -> Clip:
    """Loads a frozen CLIP; `preset` and `field` as in `presets.load_preset`.

    Raises:
      UserError: There is no such preset, it is not a CLIP, or its vocabulary does not fit.
    """
    named = {"field": field, "kind": "a CLIP"}
    backbone = presets.load_preset(hub.keras_hub.models.CLIPBackbone, preset, **named)
    converter = hub.keras_hub.layers.CLIPImageConverter
    scaling = presets.load_scaling(converter, preset, _SCALING, **named)
    images = hub.keras.Input(backbone.vision_encoder.image_shape)
    tokens = hub.keras.Input((None,), dtype="int32")
    # Each tower has only its own weights.
    image_tower = hub.keras.Model(images, backbone.get_vision_embeddings(images))
    caption_tower = hub.keras.Model(tokens, backbone.get_text_embeddings(tokens))
    image_params, caption_params = map(weights.params_of, (image_tower, caption_tower))
    apply, side = presets.make_apply(image_tower), backbone.vision_encoder.image_shape[0]

    def embed_images(params: PyTree, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        # CLIP was trained on images that Pillow resized, antialiased. keras-hub's converter is not.
        return apply(params, scaling(presets.resize(images, side, "cubic")))

    return Clip(
        embed_images,
        presets.make_apply(caption_tower),
        _load_tokenizer(preset, backbone.text_encoder, field),
        image_params,
        caption_params,
        side,
        Path(preset).expanduser().name,
        weights.fingerprint((image_params, caption_params)),
    )


def _load_tokenizer(preset: str, text_encoder, field: str):
    tokenizer = presets.load_preset(
        hub.keras_hub.tokenizers.CLIPTokenizer, preset, field=field, kind="CLIP's vocabulary"
    )
    length, size = text_encoder.max_sequence_length, text_encoder.vocabulary_size
    start, end = tokenizer.start_token_id, tokenizer.end_token_id
    # The network takes the embedding of a caption at the position of its largest id.
    if tokenizer.vocabulary_size() > size or end != max(tokenizer.vocabulary.values()):
        raise UserError(
            f"{field}={preset!r}: its vocabulary of {tokenizer.vocabulary_size()} pieces does not "
            f"belong to its network, which has {size}, the last of which ends a caption"
        )

    def tokenize(captions: Sequence[str]) -> Int32[np.ndarray, "b t"]:
        cleaned = [" ".join(caption.split()).lower() for caption in captions]
        tokens = np.zeros((len(cleaned), length), np.int32)
        for row, pieces in zip(tokens, tokenizer(cleaned), strict=True):
            ids = [start, *np.asarray(pieces, np.int32).tolist()[: length - 2], end]
            row[: len(ids)] = ids
        return tokens

    return tokenize
