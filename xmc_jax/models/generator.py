"""The one-stage generator (paper, "Attentional Self-Modulation Generator")."""

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from xmc_jax.attention import word_attention
from xmc_jax.models.layers import (
    BLOCK_OUTPUT,
    INNER_MAP,
    KERNEL_INIT,
    Condition,
    ConditionalBatchNorm,
    Conv,
    GeneratorBlock,
)

BASE_RESOLUTION = 4
NUM_GLOBAL_BLOCKS = 2  # Modulated by the sentence and noise alone, before the attention.

# Output channels of each block, in units of the width.
CHANNEL_MULTIPLIERS = {
    32: (16, 8, 4),
    64: (16, 8, 4, 2),
    128: (16, 8, 4, 2, 1),
    256: (16, 8, 8, 4, 2, 1),
}

MODULATIONS = ("attentional", "self")

ATTENTION = "attention"  # The collection that shows, if asked for, where regions looked.


class Generator(nn.Module):
    """Draws images from noise and a caption.

    Two blocks under the global condition bring 4x4 to 16x16; there every region attends to the
    caption's words, and the remaining blocks are modulated by the attended words region by
    region, next to the global condition.

    Attributes:
      resolution: Side of the images, one of `CHANNEL_MULTIPLIERS`.
      width: Base number of channels (96 in the paper).
      z_dim: Length of the noise vector, and of the projected sentence.
      modulation: ``"attentional"`` (the paper's), or ``"self"``: the global condition everywhere
        (one of the paper's ablations).
      bn_group_size: See `BatchNorm`.
      dtype: Compute type of the convolutions; attention is float32.
    """

    resolution: int
    width: int
    z_dim: int
    modulation: str = "attentional"
    bn_group_size: int = 0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.resolution not in CHANNEL_MULTIPLIERS:
            raise ValueError(
                f"no generator for resolution {self.resolution}; "
                f"there is one for {', '.join(map(str, CHANNEL_MULTIPLIERS))}"
            )
        if self.modulation not in MODULATIONS:
            raise ValueError(f"modulation is 'attentional' or 'self', not {self.modulation!r}")
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
        """Draws one image a caption.

        Args:
          z: Noise, standard normal.
          words: Word embeddings; entries beyond the mask never matter.
          sentence: Sentence embedding.
          word_mask: True at valid words.
          train: Whether to normalise by the batch's statistics and update the running ones.

        Returns:
          Images in (-1, 1), float32.
        """
        multipliers = CHANNEL_MULTIPLIERS[self.resolution]

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)

        projected = dense(self.z_dim, "project_sentence")(sentence)
        condition = Condition(jnp.concatenate([projected, z.astype(self.dtype)], axis=-1))

        side, channels = BASE_RESOLUTION, multipliers[0] * self.width
        x = dense(side * side * channels, "project_noise")(z).reshape(-1, side, side, channels)
        for index, multiplier in enumerate(multipliers):
            if index == NUM_GLOBAL_BLOCKS and self.modulation == "attentional":
                condition = self._attend(x, words, word_mask, condition)
            block = GeneratorBlock(
                multiplier * self.width, self.bn_group_size, self.dtype, name=f"block_{index}"
            )
            x = checkpoint_name(block(x, condition, train=train), BLOCK_OUTPUT)

        norm = ConditionalBatchNorm(self.bn_group_size, self.dtype, name="final_norm")
        x = norm(x, condition, train=train)
        to_rgb = Conv(3, 3, dtype=self.dtype, name="to_rgb")
        return jnp.tanh(checkpoint_name(to_rgb(x), INNER_MAP).astype(jnp.float32))

    def _attend(self, x: Array, words: Array, word_mask: Array, condition: Condition) -> Condition:
        """Adds to the condition what every region of `x` reads in the caption."""
        b, h, w, _ = x.shape
        width = words.shape[-1]
        query = Conv(width, 1, dtype=self.dtype, name="query")
        regions = query(x).reshape(b, h * w, width)
        weights, keys = word_attention(regions, words, word_mask)
        weights = weights.reshape(b, h, w, -1)
        if not self.is_initializing():
            self.sow(ATTENTION, "weights", weights)
        return condition._replace(weights=weights, words=keys)
