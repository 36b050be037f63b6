"""The one-stage generator (paper, "Attentional Self-Modulation Generator")."""

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from xmc_jax.attention import word_attention
from xmc_jax.models import layers

BASE_RESOLUTION = 4
NUM_GLOBAL_BLOCKS = 2  # Before the attention; modulated only by the sentence and the noise.

# Output channels of each block, as multiples of the width.
CHANNEL_MULTIPLIERS = {
    32: (16, 8, 4),
    64: (16, 8, 4, 2),
    128: (16, 8, 4, 2, 1),
    256: (16, 8, 8, 4, 2, 1),
}

MODULATIONS = ("attentional", "self")
FIRST_LAYERS = ("noise", "noise_and_sentence")

ATTENTION = "attention"  # Collection of the attention weights, if `mutable` names it.


class Generator(nn.Module):
    """Generates images from noise and captions.

    Two blocks modulated by the global condition go from 4x4 to 16x16. There every region attends to
    the words of the caption. The remaining blocks are modulated in each region by the attended
    words, besides the global condition.

    Attributes:
      resolution: Side of the images, one of `CHANNEL_MULTIPLIERS`.
      width: Base number of channels (96 in the paper).
      z_dim: Length of the noise vector, and of the projected sentence.
      modulation: ``"attentional"``, or ``"self"``: only the global condition in all blocks (an
        ablation in the paper).
      first_layer: What the first dense layer makes the 4x4 map of: ``"noise"``, as in the authors'
        code, or ``"noise_and_sentence"``, as in the paper: the global condition.
      sentence_scale: Factor of the sentence before its projection. Noise has the standard deviation
        1 a unit; at the start of training a projected sentence has less.
      bn_group_size: Images that share batch statistics, see `BatchNorm`.
      dtype: Compute type of the convolutions; attention is float32.
    """

    resolution: int
    width: int
    z_dim: int
    modulation: str = "attentional"
    first_layer: str = "noise"
    sentence_scale: float = 1.0
    bn_group_size: int = 0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        layers.check_choice("resolution", self.resolution, CHANNEL_MULTIPLIERS)
        layers.check_choice("modulation", self.modulation, MODULATIONS)
        layers.check_choice("first_layer", self.first_layer, FIRST_LAYERS)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b z"],
        words: Float[Array, "b t d"],
        sentence: Float[Array, "b d"],
        word_mask: Bool[Array, "b t"],
        *,
        train: bool,
    ) -> Float[Array, "b h w 3"]:
        """Generates one image per caption, in (-1, 1), float32.

        Args:
          z: Noise, standard normal.
          words: Word embeddings; entries beyond the mask have no effect.
          sentence: Sentence embeddings.
          word_mask: True at valid words.
          train: Whether to use the statistics of the batch, and update the running statistics.
        """
        multipliers = CHANNEL_MULTIPLIERS[self.resolution]

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, kernel_init=layers.KERNEL_INIT, dtype=self.dtype, name=name)

        projected = dense(self.z_dim, "project_sentence")(self.sentence_scale * sentence)
        condition = layers.Condition(jnp.concatenate([projected, z.astype(self.dtype)], axis=-1))

        side, channels = BASE_RESOLUTION, multipliers[0] * self.width
        first = z if self.first_layer == "noise" else condition.vector
        x = dense(side * side * channels, "project_noise")(first).reshape(-1, side, side, channels)
        for index, multiplier in enumerate(multipliers):
            if index == NUM_GLOBAL_BLOCKS and self.modulation == "attentional":
                condition = self._attend(x, words, word_mask, condition)
            block = layers.GeneratorBlock(
                multiplier * self.width, self.bn_group_size, self.dtype, name=f"block_{index}"
            )
            x = checkpoint_name(block(x, condition, train=train), layers.BLOCK_OUTPUT)

        norm = layers.ConditionalBatchNorm(self.bn_group_size, self.dtype, name="final_norm")
        x = norm(x, condition, train=train)
        to_rgb = layers.Conv(3, 3, dtype=self.dtype, name="to_rgb")
        return jnp.tanh(checkpoint_name(to_rgb(x), layers.INNER_MAP).astype(jnp.float32))

    def _attend(
        self, x: Array, words: Array, word_mask: Array, condition: layers.Condition
    ) -> layers.Condition:
        """Adds to the condition the words to which the regions of `x` attend."""
        b, h, w, _ = x.shape
        width = words.shape[-1]
        query = layers.Conv(width, 1, dtype=self.dtype, name="query")
        regions = query(x).reshape(b, h * w, width)
        weights, keys = word_attention(regions, words, word_mask)
        weights = weights.reshape(b, h, w, -1)
        if not self.is_initializing():
            self.sow(ATTENTION, "weights", weights)
        return condition._replace(weights=weights, words=keys)
