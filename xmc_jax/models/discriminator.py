"""The discriminator, which also encodes images (paper, "Contrastive Discriminator")."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xmc_jax.models.layers import BLOCK_OUTPUT, INNER_MAP, SpectralConv, SpectralDense, check_choice
from xmc_jax.models.ops.normalization import relu
from xmc_jax.models.ops.resampling import average_pool

# Output channels of each block after the first, as multiples of the width.
CHANNEL_MULTIPLIERS = {
    32: (2, 4, 8),
    64: (2, 4, 8, 16),
    128: (2, 4, 8, 16, 16),
    256: (2, 4, 8, 8, 16, 16),
}
# Number of layers between the features and the contrastive terms.
CONTRASTIVE_HEADS = {"none": 0, "linear": 1, "mlp": 2}


class DiscriminatorOutput(NamedTuple):
    """Discriminator outputs, all float32.

    Attributes:
      logits: Large for images that look real and fit their caption.
      embedding: Image embeddings: the last feature map, summed over positions.
      sentence: Sentence embeddings in the space of the image embeddings.
      regions: Embeddings of image regions in the space of the word embeddings.
    """

    logits: Float[Array, " b"]
    embedding: Float[Array, "b c"]
    sentence: Float[Array, "b c"]
    regions: Float[Array, "b r d"]


class DiscriminatorBlock(nn.Module):
    """Residual block: [ReLU], conv 3x3, ReLU, conv 3x3, plus a 1x1 shortcut, [2x2 mean]."""

    features: int
    downsample: bool
    first: bool = False  # The input is an image; no ReLU precedes the first convolution.
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        def conv(kernel_size: int, name: str, pool: bool = False) -> SpectralConv:
            return SpectralConv(self.features, kernel_size, pool, self.dtype, name=name)

        h = relu(conv(3, "conv_1")(x if self.first else relu(x), train=train))
        h = conv(3, "conv_2", pool=self.downsample)(h, train=train)
        if not self.downsample and x.shape[-1] == self.features:
            return h + x  # Neither resolution nor channels change.
        # The 1x1 shortcut commutes with the mean, and costs a quarter when it comes second.
        x = checkpoint_name(average_pool(x) if self.downsample else x, INNER_MAP)
        return h + conv(1, "shortcut")(x, train=train)


class Discriminator(nn.Module):
    """Scores images against captions, and embeds both.

    Every convolution and dense layer is spectrally normalised.

    Attributes:
      resolution: Side of the images, one of `CHANNEL_MULTIPLIERS`.
      width: Base number of channels (96 in the paper).
      region_resolution: Side of the feature map whose positions are the regions of the word loss
        (16 in the paper).
      contrastive_head: Additional layers before the contrastive terms, for embedding and regions:
        ``"none"`` (best in the paper), ``"linear"`` (one layer) or ``"mlp"`` (two layers with a
        ReLU between them); see the paper's ablation "Deeper Contrastive Heads".
      dtype: Compute type of convolutions; embeddings and logits are float32.
    """

    resolution: int
    width: int
    region_resolution: int = 16
    contrastive_head: str = "none"
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check_choice("resolution", self.resolution, CHANNEL_MULTIPLIERS)
        # All blocks but the last halve the resolution.
        num_halvings = len(CHANNEL_MULTIPLIERS[self.resolution])
        sides = [self.resolution // 2**i for i in range(1, num_halvings + 1)]
        if self.region_resolution not in sides:
            raise ValueError(
                f"region_resolution={self.region_resolution} is not a feature map of this "
                f"discriminator; it has {', '.join(map(str, sides))}"
            )
        check_choice("contrastive_head", self.contrastive_head, CONTRASTIVE_HEADS)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], sentence: Float[Array, "b d"], *, train: bool
    ) -> DiscriminatorOutput:
        """Scores each image against its caption.

        The outputs of an image do not depend on the other images. Real and fake images may
        therefore be passed in one call, or in two calls with the same spectral norms.

        Args:
          images: Values in [-1, 1].
          sentence: Sentence embeddings; their width is also that of the regions.
          train: Whether to update the vectors of the spectral norms.
        """
        multipliers = CHANNEL_MULTIPLIERS[self.resolution]
        x = DiscriminatorBlock(self.width, True, True, self.dtype, name="block_0")(
            images, train=train
        )
        regions = x = checkpoint_name(x, BLOCK_OUTPUT)
        for index, multiplier in enumerate(multipliers):
            downsample = index + 1 < len(multipliers)
            block = DiscriminatorBlock(
                multiplier * self.width, downsample, dtype=self.dtype, name=f"block_{index + 1}"
            )
            x = checkpoint_name(block(x, train=train), BLOCK_OUTPUT)
            if x.shape[1] == self.region_resolution and downsample:
                regions = x

        text_width = sentence.shape[-1]
        regions = self._head(regions, self.dtype, "regions_head", train)
        to_regions = SpectralConv(text_width, 1, dtype=self.dtype, name="regions")
        regions = to_regions(regions, train=train).astype(jnp.float32)

        pooled = jnp.sum(relu(x).astype(jnp.float32), axis=(1, 2))
        projection = SpectralDense(pooled.shape[-1], name="sentence")(sentence, train=train)
        logits = SpectralDense(1, name="logit")(pooled, train=train)[:, 0]
        return DiscriminatorOutput(
            logits=logits + jnp.sum(pooled * projection, axis=-1),
            embedding=self._head(pooled, jnp.float32, "embedding_head", train),
            sentence=projection,
            regions=regions.reshape(regions.shape[0], -1, text_width),
        )

    def _head(self, x: Array, dtype: DTypeLike, name: str, train: bool) -> Array:
        for index in range(CONTRASTIVE_HEADS[self.contrastive_head]):
            layer = SpectralDense(x.shape[-1], dtype, name=f"{name}_{index}")
            x = layer(relu(x) if index else x, train=train)
        return x
