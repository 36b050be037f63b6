"""The networks as a training step calls them."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xmc_jax.models.augmentation import Augmentation, Changes
from xmc_jax.models.discriminator import DiscriminatorOutput
from xmc_jax.models.layers import BATCH_STATS, SPECTRAL
from xmc_jax.types import EncodedText, ExtractFeatures, PyTree


class Networks(NamedTuple):
    """The networks in training mode.

    Attributes:
      generator: A `Generator`.
      discriminator: A `Discriminator`.
      extract_features: The pretrained network, or None without its term.
      augmentation: Random changes of the images that the discriminator sees.
      remat_policy: One of `REMAT_POLICIES`.
      gather: See `sharding.make_gather`.
    """

    generator: nn.Module
    discriminator: nn.Module
    extract_features: ExtractFeatures | None
    augmentation: Augmentation
    remat_policy: Callable | None
    gather: Callable[[PyTree], PyTree]

    def generate(
        self, params: PyTree, stats: PyTree, z: Float[Array, "b z"], text: EncodedText
    ) -> tuple[Float[Array, "b h w 3"], PyTree]:
        """Fake images, and the updated running statistics."""
        return self._apply(self.generator, params, BATCH_STATS, stats, z, *text)

    def generate_several(
        self, params: PyTree, stats: PyTree, z: Float[Array, "b k z"], text: EncodedText
    ) -> Float[Array, "b k h w 3"]:
        """k fake images of each caption, all in one batch."""
        b, k, length = z.shape
        repeated = jax.tree.map(lambda x: jnp.repeat(x, k, axis=0), text)
        fakes, _ = self.generate(params, stats, z.reshape(b * k, length), repeated)
        return fakes.reshape(b, k, *fakes.shape[1:])

    def change(
        self, images: Float[Array, "b h w 3"], changes: Changes, noise: Array | None
    ) -> Float[Array, "b h w 3"]:
        """Images as the discriminator sees them. Noise comes last: it is as strong everywhere."""
        images = self.augmentation.apply(images, changes)
        return images if noise is None else images + noise

    def discriminate(
        self, params: PyTree, spectral: PyTree, images: Array, sentence: Float[Array, "b d"]
    ) -> tuple[DiscriminatorOutput, PyTree]:
        """Discriminator outputs, and the updated vectors of the spectral norms."""
        return self._apply(self.discriminator, params, SPECTRAL, spectral, images, sentence)

    def image_features(self, params: PyTree, images: Array) -> Array | None:
        """Features of the pretrained network, or None without its term."""
        return self.extract_features(params, images) if self.extract_features else None

    def _apply(
        self, network: nn.Module, params: PyTree, name: str, variables: PyTree, *inputs: Array
    ) -> tuple[PyTree, PyTree]:
        """Outputs of a network, and its updated collection of this name."""

        def apply(params: PyTree, *inputs: Array) -> tuple[PyTree, PyTree]:
            collections = {"params": self.gather(params), name: variables}
            return network.apply(collections, *inputs, train=True, mutable=[name])

        if self.remat_policy is not None:
            apply = jax.checkpoint(apply, policy=self.remat_policy)
        outputs, updated = apply(params, *inputs)
        return outputs, updated[name]


def pair(reals: PyTree, fakes: PyTree) -> PyTree:
    """One batch in which real and fake alternate: no image of a split batch changes its device."""
    return jax.tree.map(
        lambda x, y: jnp.stack([x, y], axis=1).reshape(-1, *x.shape[1:]), reals, fakes
    )


def unpair(outputs: PyTree) -> tuple[PyTree, PyTree]:
    """Those of the reals and of the fakes of a batch that `pair` made."""
    return tuple(jax.tree.map(lambda x, i=i: x[i::2], outputs) for i in (0, 1))
