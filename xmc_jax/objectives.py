"""The losses of both players as functions of the networks' outputs (paper, section 4)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from xmc_jax import losses
from xmc_jax.models.discriminator import DiscriminatorOutput
from xmc_jax.parallel.sharding import BATCH_AXES
from xmc_jax.types import Metrics


class LossWeights(NamedTuple):
    """Weights of the terms beside the hinge losses; a term of weight 0 is not computed.

    Attributes:
      sentence: Between an image and its sentence.
      word: Between the regions of an image and its words.
      image_d: Between fake and real images, in the discriminator's features.
      image_pretrained: Between fake and real images, in the features of a pretrained network.
      variety: Between a real image and the nearest of several fake ones; not of the paper.
    """

    sentence: float = 1.0
    word: float = 1.0
    image_d: float = 1.0
    image_pretrained: float = 0.0
    variety: float = 0.0


class Text(NamedTuple):
    """An encoded caption batch."""

    words: Float[Array, "b t d"]
    sentence: Float[Array, "b d"]
    word_mask: Bool[Array, "b t"]


class NetworkOutputs(NamedTuple):
    """Outputs of the networks for a batch of images."""

    discriminator: DiscriminatorOutput
    features: Float[Array, "b n"] | None = None  # Of the pretrained network; None without its term.
    distances: Float[Array, " b"] | None = None  # From the real images; None without variety.


def make_contrastive_terms(mesh: Mesh | None, group_size: int) -> tuple[Callable, Callable]:
    """Builds ``(info_nce, word_nce)`` for a mesh, with negatives from the global batch or groups.

    With global negatives the word term runs in a `jax.shard_map`: each device scores its own images
    against all captions, and only the matrix of scores leaves the shard_map. Without it, the
    partitioner would move whole activations in the loop over images. The words are gathered outside
    the shard_map, where XLA can see that both players' terms need the same array.

    Args:
      mesh: The devices, or None for arrays on one device.
      group_size: Negatives come from groups of this many consecutive items; with 0, from the whole
        batch.
    """
    info_nce = losses.in_groups(losses.info_nce, group_size)
    if group_size or mesh is None or mesh.size == 1:
        return info_nce, losses.in_groups(losses.word_nce, group_size)

    def score_local_images(regions: Array, words: Array, word_mask: Array) -> Array:
        # Each device then has its own gradient with respect to the words, and these are summed.
        words, word_mask = jax.lax.pcast((words, word_mask), BATCH_AXES, to="varying")
        return losses.word_scores(regions, words, word_mask)

    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    scores = jax.shard_map(
        score_local_images, mesh=mesh, in_specs=(split, whole, whole), out_specs=split
    )

    def word_nce(regions: Array, words: Array, word_mask: Array) -> losses.LossAndAccuracy:
        return losses.symmetric_cross_entropy(
            losses.GAMMA_MATCH * scores(regions, words, word_mask)
        )

    return info_nce, word_nce


class Objectives(NamedTuple):
    """The losses of both players, with the terms of `make_contrastive_terms`."""

    weights: LossWeights
    info_nce: Callable[..., losses.LossAndAccuracy]
    word_nce: Callable[..., losses.LossAndAccuracy]

    def d_loss(
        self, real: DiscriminatorOutput, fake: DiscriminatorOutput, text: Text
    ) -> tuple[Array, Metrics]:
        """Hinge loss, and real images against their captions; the sum, and its terms as metrics."""
        metrics = {
            "d/hinge": losses.hinge_d_loss(real.logits, fake.logits),
            "d/real_logit": jnp.mean(real.logits),
            "d/fake_logit": jnp.mean(fake.logits),
        }
        return self._total("d", metrics, self._text_terms(real, text))

    def g_loss(
        self, fake: NetworkOutputs, real: NetworkOutputs, text: Text
    ) -> tuple[Array, Metrics]:
        """Hinge loss, fake images against their captions, and against the real images."""
        fakes, reals = fake.discriminator, real.discriminator
        metrics = {"g/hinge": losses.hinge_g_loss(fakes.logits)}
        terms = self._text_terms(fakes, text)
        terms["image_d"] = lambda: self.info_nce(fakes.embedding, reals.embedding)
        terms["image_pretrained"] = lambda: self.info_nce(real.features, fake.features)
        loss, metrics = self._total("g", metrics, terms)
        if self.weights.variety:
            distance = jnp.mean(fake.distances)
            loss = loss + self.weights.variety * distance
            metrics |= {"g/variety": distance, "g/loss": loss}
        return loss, metrics

    def _text_terms(
        self, images: DiscriminatorOutput, text: Text
    ) -> dict[str, Callable[[], losses.LossAndAccuracy]]:
        return {
            "sentence": lambda: self.info_nce(images.embedding, images.sentence),
            "word": lambda: self.word_nce(images.regions, text.words, text.word_mask),
        }

    def _total(
        self, player: str, metrics: Metrics, terms: dict[str, Callable]
    ) -> tuple[Array, Metrics]:
        """Computes and adds the terms whose weight is not 0."""
        loss = metrics[f"{player}/hinge"]
        for name, compute in terms.items():
            if weight := getattr(self.weights, name):
                value, accuracy = compute()
                metrics |= {f"{player}/{name}": value, f"{player}/{name}_accuracy": accuracy}
                loss = loss + weight * value
        return loss, metrics | {f"{player}/loss": loss}
