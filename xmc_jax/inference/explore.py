"""Inspects a trained model in a notebook: attention, interpolation, nearest training images.

Everything here is meant for a few images at a time.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int, Int32, UInt8
from scipy.spatial.distance import cdist

from xmc_jax import images
from xmc_jax.attention import l2_normalize, normalized_words
from xmc_jax.data import catalog, streams
from xmc_jax.data.records import ExampleReader, Selection
from xmc_jax.errors import UserError
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.inference.batches import make_noise
from xmc_jax.inference.model import TrainedModel
from xmc_jax.inference.program import ProgramModel
from xmc_jax.models.discriminator import DiscriminatorOutput
from xmc_jax.models.generator import ATTENTION
from xmc_jax.models.layers import SPECTRAL
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import read_config
from xmc_jax.run.folder import find_checkpoints
from xmc_jax.types import EncodedText, PyTree


class WordMaps(NamedTuple):
    """How the regions of an image relate to the words of its caption.

    Attributes:
      image: The image, 0..255.
      pieces: The caption's word pieces, including [CLS] and [SEP].
      maps: One map over the image's regions for each word piece.
    """

    image: UInt8[np.ndarray, "h w 3"]
    pieces: list[str]
    maps: Float[np.ndarray, "t h0 w0"]


def attention_maps(model: TrainedModel | ProgramModel, caption: str, *, seed: int = 0) -> WordMaps:
    """The generator's attention of every region of an image to every word.

    Returns:
      The image of ``model.generate([caption], seed=seed)`` and the attention weights, which sum to
      one over the words (paper, "Attentional Self-Modulation Generator").

    Raises:
      UserError: the generator has no attention (``config.model.modulation`` is not "attentional").
    """
    model = model.networks
    experiment = model.experiment
    modulation = experiment.config.model.modulation
    if modulation != "attentional":
        raise UserError(
            f"this generator has no attention: its config.model.modulation is {modulation!r}"
        )
    z = make_noise(1, experiment.generator.z_dim, seed, 0)
    tokens, text = _encode(experiment, [caption])
    image, found = _generate(experiment.generator, model.ema, z, text)
    (weights,) = found[ATTENTION]["weights"]
    pieces = experiment.tokenizer.pieces(tokens[0])
    maps = np.moveaxis(np.asarray(weights[0]), -1, 0)[: len(pieces)]
    return WordMaps(np.asarray(image)[0], pieces, maps)


def interpolate_noise(
    model: TrainedModel | ProgramModel,
    caption: str,
    *,
    seeds: tuple[int, int] = (0, 1),
    num_images: int = 8,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Generates one caption with noise that moves from one vector to another.

    The noise moves along an arc because Gaussian vectors have nearly equal lengths: a straight line
    passes through vectors that are shorter than any that the generator was trained on.

    The images at both ends, which count into `num_images`, are those of `TrainedModel.generate`
    with the two seeds.
    """
    model = model.networks
    generator = model.experiment.generator
    ends = [make_noise(1, generator.z_dim, seed, 0)[0] for seed in seeds]
    z = jnp.stack([_arc(*ends, share) for share in np.linspace(0, 1, num_images)])
    _, text = _encode(model.experiment, [caption])
    text = tuple(jnp.repeat(x, num_images, axis=0) for x in text)
    return np.asarray(_generate(generator, model.ema, z, text)[0])


def interpolate_captions(
    model: TrainedModel | ProgramModel,
    captions: tuple[str, str],
    *,
    seed: int = 0,
    num_images: int = 8,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Generates images of text that moves from one caption to another, with fixed noise.

    The sentence and each word embedding move along straight lines. If the captions differ in
    length, words of the shorter one are repeated in order; the image at its end is then close to,
    but not exactly, the image of that caption. Both ends count into `num_images`.
    """
    model = model.networks
    generator = model.experiment.generator
    _, (words, sentence, mask) = _encode(model.experiment, captions)
    lengths = np.asarray(mask.sum(axis=1))
    places = np.rint(np.linspace(0, lengths - 1, max(lengths), axis=1)).astype(int)
    shares = jnp.linspace(0.0, 1.0, num_images)
    z = jnp.repeat(make_noise(1, generator.z_dim, seed, 0), num_images, axis=0)

    def between(pair: Float[Array, "2 ..."]) -> Float[Array, "n ..."]:
        share = shares.reshape(-1, *(1,) * (pair.ndim - 1))
        return (1 - share) * pair[:1] + share * pair[1:]

    stretched = jnp.stack([words[i, places[i]] for i in range(2)])
    text = between(stretched), between(sentence), jnp.ones((num_images, max(lengths)), bool)
    return np.asarray(_generate(generator, model.ema, z, text)[0])


@dataclasses.dataclass(frozen=True)
class TrainedDiscriminator:
    """A discriminator with its text encoder; created by `load_discriminator`.

    Attributes:
      experiment: Networks and text encoder.
      variables: The discriminator's parameters and spectral vectors.
    """

    experiment: Experiment
    variables: PyTree

    def word_similarities(self, image: UInt8[np.ndarray, "h w 3"], caption: str) -> WordMaps:
        """Cosines, in [-1, 1], of an image's regions and a caption's words.

        The word loss is computed from them (paper, "Contrastive Losses").
        """
        experiment = self.experiment
        tokens, (words, sentence, mask) = _encode(experiment, [caption])
        pixels = images.from_uint8(jnp.asarray(image)[None])
        output = _discriminate(experiment.discriminator, self.variables, pixels, sentence)
        cosines = jnp.einsum(
            "rd,td->tr", l2_normalize(output.regions[0]), normalized_words(words, mask)[0]
        )
        side = experiment.config.model.region_resolution
        pieces = experiment.tokenizer.pieces(tokens[0])
        maps = np.asarray(cosines).reshape(-1, side, side)[: len(pieces)]
        return WordMaps(np.asarray(image), pieces, maps)


def load_discriminator(folder: epath.PathLike, *, step: int | None = None) -> TrainedDiscriminator:
    """Loads the discriminator of a run's checkpoint, by default the newest.

    An exported model has none.

    Raises:
      UserError: there is no such run or checkpoint.
    """
    experiment = create_experiment(read_config(folder), folder, training=False)
    with Checkpoints(find_checkpoints(folder, step), read_only=True) as checkpoints:
        state = checkpoints.restore(experiment.abstract_state(), step)
    variables = {"params": state.discriminator, SPECTRAL: state.spectral}
    return TrainedDiscriminator(experiment, variables)


def read_images(
    experiment: Experiment, data_dir: str, num_images: int
) -> tuple[UInt8[np.ndarray, "n h w 3"], list[str]]:
    """Reads training images of a run as the networks see them, each with one of its captions.

    Reads all images if the split has fewer than `num_images`.

    Raises:
      UserError: the data set does not exist.
    """
    config, data = experiment.config, experiment.config.data
    source = catalog.open_train_split(config, data_dir)
    indices = streams.choose_examples(len(source), num_images, config.seed)
    read = ExampleReader(source, config.model.resolution, data.crop, data.antialias, config.seed)
    examples = read(Selection(indices, indices))
    return examples.image, examples.captions


def nearest_images(
    images: UInt8[np.ndarray, "n h w 3"], others: UInt8[np.ndarray, "m h w 3"], k: int = 4
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Finds the k nearest training images of generated ones, which shows whether they are copies.

    Returns:
      Indices of the neighbours, nearest first, and their distances: root mean squares of the
      differences of pixels, 0..255.
    """
    flat = [x.reshape(len(x), -1) for x in (images, others)]
    distances = cdist(*flat) / np.sqrt(flat[0].shape[1])
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return nearest, np.take_along_axis(distances, nearest, axis=1)


def _encode(
    experiment: Experiment, captions: Sequence[str]
) -> tuple[Int32[np.ndarray, "b t"], EncodedText]:
    """Token ids and embeddings."""
    tokens = experiment.tokenizer(captions)
    return tokens, jax.jit(experiment.text_encoder.apply)(experiment.frozen.text, tokens)


@functools.partial(jax.jit, static_argnums=0)
def _generate(
    generator: nn.Module, ema: PyTree, z: Float[Array, "b z"], text: EncodedText
) -> tuple[UInt8[Array, "b h w 3"], PyTree]:
    """Images, and the generator's attention weights."""
    generated, found = generator.apply(ema, z, *text, train=False, mutable=[ATTENTION])
    return images.to_uint8(generated), found


@functools.partial(jax.jit, static_argnums=0)
def _discriminate(
    discriminator: nn.Module,
    variables: PyTree,
    pixels: Float[Array, "b h w 3"],
    sentence: Float[Array, "b d"],
) -> DiscriminatorOutput:
    return discriminator.apply(variables, pixels, sentence, train=False)


def _arc(a: Float[Array, " z"], b: Float[Array, " z"], share: float) -> Float[Array, " z"]:
    """The vector at a share of the arc from a to b: its angle and its length change evenly."""
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    straight = (1 - share) * a + share * b
    turned = (jnp.sin((1 - share) * angle) * a + jnp.sin(share * angle) * b) / jnp.sin(angle)
    return jnp.where(jnp.sin(angle) < 1e-6, straight, turned)
