"""Cosines, and the attention of image regions to words (paper, section 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Vectors shorter than 1e-8 count as zero: they have no direction and get no gradient.
_ZERO_SQUARED_NORM = 1e-16


def inverse_norm(squared_norm: Float[Array, "..."]) -> Float[Array, "..."]:
    """``1 / sqrt(squared_norm)``, but 0 with gradient 0 for zero vectors, instead of inf or NaN."""
    is_zero = squared_norm <= _ZERO_SQUARED_NORM
    # The inner `where` keeps the gradient of rsqrt finite where its result is not used.
    return jnp.where(is_zero, 0.0, jax.lax.rsqrt(jnp.where(is_zero, 1.0, squared_norm)))


def l2_normalize(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Scales the vectors along the last axis to length one, in float32. Zero vectors stay zero."""
    x = x.astype(jnp.float32)
    return x * inverse_norm(jnp.sum(x * x, axis=-1, keepdims=True))


def normalized_words(
    words: Float[Array, "*b t d"], word_mask: Bool[Array, "*b t"]
) -> Float[Array, "*b t d"]:
    """Unit word vectors, exactly zero at padding, even where the padding holds NaN."""
    return l2_normalize(jnp.where(word_mask[..., None], words, 0.0))


def word_attention(
    regions: Float[Array, "b r d"],
    words: Float[Array, "b t d"],
    word_mask: Bool[Array, "b t"],
    *,
    gamma: float = 15.0,
) -> tuple[Float[Array, "b r t"], Float[Array, "b t d"]]:
    """Attention weights of all regions over all words, and the unit vectors they average.

    A softmax of ``gamma * cos(region_r, word_t)`` over the valid words (paper, "Attentional
    Self-Modulation Generator").

    Args:
      regions: Queries. Only their directions matter.
      words: Word embeddings; entries beyond the mask have no effect.
      word_mask: True at valid words.
      gamma: Sharpness of the attention, > 0.

    Returns:
      Weights in [0, 1], float32, that sum to one over the valid words, or are all zero for a
      caption without valid words; and the L2-normalised words, zero at padding.
    """
    keys = normalized_words(words, word_mask)
    logits = gamma * jnp.einsum("brd,btd->brt", l2_normalize(regions), keys)
    valid = word_mask[:, None, :]
    weights = jax.nn.softmax(logits, axis=-1, where=valid)
    return jnp.where(valid, weights, 0.0), keys


def attend_words(
    regions: Float[Array, "b r d"],
    words: Float[Array, "b t d"],
    word_mask: Bool[Array, "b t"],
    *,
    gamma: float = 15.0,
) -> Float[Array, "b r d"]:
    """The context of every region: the average of the L2-normalised words by `word_attention`.

    Arguments as there. Contexts are float32, of length at most one, and zero for a caption without
    valid words.
    """
    weights, keys = word_attention(regions, words, word_mask, gamma=gamma)
    return jnp.einsum("brt,btd->brd", weights, keys)
