"""A small judge of emoji: two towers that put images and captions into one space.

The tower of images is a convolutional network; that of captions projects sentence embeddings of
the packaged text encoder. Trained weights are shipped; `python -m xmc_jax.emoji.train_judge`
trains them, on real images of the data set alone.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from xmc_jax.console import Progress
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.frozen import packaged, text_encoder
from xmc_jax.types import PyTree

PACKAGED = Path(__file__).parent / "judge.npz"
SIDE = 32  # Every image is resized to this side, so that one judge serves all resolutions.
TEXT_WIDTH = 384  # Of sentence embeddings.

_WIDTH = 96  # Of the common space.
_LAYERS = ((32, 2), (64, 2), (96, 1), (128, 2))  # Channels and stride of each convolution.
_IMAGE_DROPOUT, _TEXT_DROPOUT = 0.3, 0.1
_FIRST_SCALE, _LARGEST_SCALE = 10.0, 100.0  # What cosines are multiplied by.
_TEXT_ENCODER = "minilm"
_NUM_TOKENS = 22  # The longest caption in English has as many.
_BATCH = 16  # Captions encoded at once; the last batch is padded, so that one program serves all.


class Towers(nn.Module):
    """The network; float32 on all platforms, since numbers are compared across machines."""

    def setup(self):
        self.convolutions = [
            nn.Conv(channels, (3, 3), (stride, stride), use_bias=False, precision="float32")
            for channels, stride in _LAYERS
        ]
        self.norms = [nn.GroupNorm(num_groups=8) for _ in _LAYERS]
        self.dropouts = [nn.Dropout(rate) for rate in (_IMAGE_DROPOUT, _TEXT_DROPOUT)]
        self.projections = [nn.Dense(_WIDTH, precision="float32") for _ in range(2)]
        first = nn.initializers.constant(np.log(_FIRST_SCALE))
        self.log_scale = self.param("log_scale", first, ())

    def embed_images(
        self, images: Float[Array, "b h w 3"], is_training: bool = False
    ) -> Float[Array, "b d"]:
        """Unit vectors of images in [-1, 1], of any size."""
        x = resize(images)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.relu(norm(convolution(x)))
        half = x.shape[1] // 2
        x = nn.avg_pool(x, (half, half), (half, half)).reshape(len(x), -1)
        x = self.dropouts[0](x, deterministic=not is_training)
        return _unit(self.projections[0](x))

    def embed_sentences(
        self, sentences: Float[Array, "b e"], is_training: bool = False
    ) -> Float[Array, "b d"]:
        """Unit vectors of captions, from their sentence embeddings."""
        # Entries near 1, as the initialisers of the projection expect.
        x = _unit(sentences) * TEXT_WIDTH**0.5
        x = self.dropouts[1](x, deterministic=not is_training)
        return _unit(self.projections[1](x))

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        sentences: Float[Array, "n e"],
        is_training: bool = False,
    ) -> Float[Array, "b n"]:
        """Scaled cosines of all pairs, for training."""
        scale = jnp.exp(jnp.minimum(self.log_scale, np.log(_LARGEST_SCALE)))
        texts = self.embed_sentences(sentences, is_training)
        return scale * self.embed_images(images, is_training) @ texts.T


def resize(images: Float[Array, "b h w 3"]) -> Float[Array, "b side side 3"]:
    """Images as the judge sees them."""
    return jax.image.resize(images, (len(images), SIDE, SIDE, 3), "bilinear", antialias=True)


def _unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


class SentenceEncoder(NamedTuple):
    """The packaged text encoder.

    Attributes:
      encode: Sentence embeddings of captions: means over their tokens.
      fingerprint: sha256 of its weights and vocabulary.
    """

    encode: Callable[[Sequence[str]], Float32[np.ndarray, "n e"]]
    fingerprint: str


def load_sentence_encoder() -> SentenceEncoder:
    """Loads it; raises UserError if it is not installed."""
    encoder = text_encoder.load_text_encoder(_TEXT_ENCODER)
    tokenizer = Tokenizer(encoder.vocabulary_file, _NUM_TOKENS, encoder.lowercase)
    apply = jax.jit(lambda params, tokens: encoder.apply(params, tokens)[1])

    def encode(captions: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        progress = Progress(len(captions), name="encode", unit="captions")
        tokens, found = tokenizer(captions), []
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            padded = np.pad(part, ((0, _BATCH - len(part)), (0, 0)), mode="edge")
            found.append(np.asarray(apply(encoder.params, padded))[: len(part)])
            progress.tell(start + len(part))
        return np.concatenate(found)

    return SentenceEncoder(encode, text_encoder.fingerprint(encoder))


class Judge(NamedTuple):
    """The network with its weights.

    Attributes:
      embed_images: ``(params, images in [-1, 1]) -> unit vectors``, pure; images of any size.
      embed_captions: ``captions -> unit vectors``.
      params: The weights.
      fingerprint: sha256 of the weight file.
      metadata: How the weights were made, such as the ``command``.
    """

    embed_images: Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b d"]]
    embed_captions: Callable[[Sequence[str]], Float32[np.ndarray, "n d"]]
    params: PyTree
    fingerprint: str
    metadata: Mapping[str, Any]


def save_judge(path: Path, params: PyTree, encoder: SentenceEncoder, command: str) -> None:
    """Writes weights and how they were made; see `packaged.save`."""
    packaged.save(path, params, {"command": command, "text_encoder": encoder.fingerprint})


def load_judge(path: Path = PACKAGED) -> Judge:
    """Reads a weight file that `save_judge` wrote, and loads the text encoder.

    Raises:
      UserError: The file does not exist, does not contain a judge, or was trained with another
        text encoder; or the text encoder is not installed.
    """
    encoder = load_sentence_encoder()
    loaded = packaged.load(
        path,
        jax.eval_shape(init_towers, jax.random.key(0)),
        kind="a judge of emoji",
        command="python -m xmc_jax.emoji.train_judge",
        same={"text_encoder": encoder.fingerprint},
    )
    project = jax.jit(lambda params, x: Towers().apply(params, x, method="embed_sentences"))

    def embed_captions(captions: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        return np.asarray(project(loaded.params, encoder.encode(captions)))

    return Judge(embed_images, embed_captions, *loaded)


def embed_images(params: PyTree, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
    """`Towers.embed_images` with these weights."""
    return Towers().apply(params, images, method="embed_images")


def init_towers(rng: Array) -> PyTree:
    """Random weights."""
    return Towers().init(rng, jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros((1, TEXT_WIDTH)))
