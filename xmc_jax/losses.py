"""The losses of the paper, as pure functions of plain arrays, in float32.

The contrastive ones are those of the paper's "Contrastive Losses for Text-to-Image Synthesis".

Every reduction runs over the whole array it is given: hand in the global batch. Under `jax.jit`
a batch that is sharded over devices is still one array here, so negatives are global.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from xmc_jax.attention import inverse_norm, l2_normalize, normalized_words

LossAndAccuracy = tuple[Float[Array, ""], Float[Array, ""]]

# Floats that the word term may hold for one chunk of images: 32 MiB of similarities.
_CHUNK_FLOATS = 2**23


def hinge_d_loss(
    real_logits: Float[Array, " b"], fake_logits: Float[Array, " b"]
) -> Float[Array, ""]:
    """The discriminator's hinge loss, ``mean(relu(1 - real) + relu(1 + fake))``."""
    real_logits, fake_logits = real_logits.astype(jnp.float32), fake_logits.astype(jnp.float32)
    return jnp.mean(jax.nn.relu(1.0 - real_logits) + jax.nn.relu(1.0 + fake_logits))


def hinge_g_loss(fake_logits: Float[Array, " b"]) -> Float[Array, ""]:
    """The generator's side of the hinge loss, ``-mean(fake)``."""
    return -jnp.mean(fake_logits.astype(jnp.float32))


def symmetric_cross_entropy(scores: Float[Array, "b b"]) -> LossAndAccuracy:
    """Cross-entropy of rows plus that of columns, the diagonal being the target of both.

    Args:
      scores: Logits; entry (i, j) scores item i of one kind against item j of the other.

    Returns:
      The sum of the two mean cross-entropies (nats, >= 0), and the share of diagonal entries
      that are the largest of their row or column, averaged over the two directions (0..1).
    """
    scores = scores.astype(jnp.float32)
    diagonal = jnp.diagonal(scores)
    row_loss = jnp.mean(jax.nn.logsumexp(scores, axis=1) - diagonal)
    column_loss = jnp.mean(jax.nn.logsumexp(scores, axis=0) - diagonal)
    targets = jnp.arange(scores.shape[0])
    row_accuracy = jnp.mean(jnp.argmax(scores, axis=1) == targets)
    column_accuracy = jnp.mean(jnp.argmax(scores, axis=0) == targets)
    return row_loss + column_loss, (row_accuracy + column_accuracy) / 2


def info_nce(
    a: Float[Array, "b d"], b: Float[Array, "b d"], *, temperature: float = 0.1
) -> LossAndAccuracy:
    """Contrastive loss between paired vectors, both directions summed (InfoNCE).

    Args:
      a: One vector an item, any scale; only its direction counts.
      b: Its partners, row by row.
      temperature: Divides the cosines; > 0.

    Returns:
      Loss (nats) and in-batch retrieval accuracy, see `symmetric_cross_entropy`.
    """
    cosines = jnp.matmul(l2_normalize(a), l2_normalize(b).T)
    return symmetric_cross_entropy(cosines / temperature)


def word_scores(
    regions: Float[Array, "b r d"],
    words: Float[Array, "n t d"],
    word_mask: Bool[Array, "n t"],
    *,
    gamma_region: float = 5.0,
    gamma_word: float = 5.0,
) -> Float[Array, "b n"]:
    """How well each image shows each caption, word by word.

    For every word of every caption, a softmax over the image's regions (sharpness
    ``gamma_region``) picks a context; the word's match is its cosine with that context; the
    caption's score is the soft maximum ``log(sum(exp(gamma_word * match))) / gamma_word`` over its
    valid words. A caption without valid words scores 0.

    No context is ever formed: its product with the word reuses the similarities, and its norm
    comes from the Gram matrix of the regions. The softmax is left unnormalised, since its
    normaliser cancels in the cosine. A loop over small chunks of images, recomputed in the
    backward pass, keeps memory linear in the number of captions.

    Args:
      regions: Region features of the images, any scale.
      words: Word embeddings of the captions; entries beyond the mask never matter.
      word_mask: True at valid words.
      gamma_region: Sharpness of the attention over regions, > 0.
      gamma_word: Sharpness of the soft maximum over words, > 0.

    Returns:
      Scores in about [-1, 1 + log(t) / gamma_word], not yet multiplied by ``gamma_match``.
    """
    num_captions, num_words, width = words.shape
    num_regions = regions.shape[1]
    queries = normalized_words(words, word_mask).reshape(num_captions * num_words, width)

    def match_words(features: Float[Array, "r d"]) -> Float[Array, "n t"]:
        similarity = features @ queries.T
        largest = jax.lax.stop_gradient(jnp.max(similarity, axis=0, keepdims=True))
        weights = jnp.exp(gamma_region * (similarity - largest))
        gram = features @ features.T
        word_dot_context = jnp.sum(weights * similarity, axis=0)
        context_squared_norm = jnp.sum(weights * (gram @ weights), axis=0)
        match = word_dot_context * inverse_norm(context_squared_norm)
        return match.reshape(num_captions, num_words)

    chunk = max(1, _CHUNK_FLOATS // (num_regions * num_captions * num_words))
    features = l2_normalize(regions)
    if chunk >= regions.shape[0]:
        match = jax.vmap(match_words)(features)
    else:
        match = jax.lax.map(jax.checkpoint(match_words), features, batch_size=chunk)

    # Finite stand-in for -inf: a caption that is all padding must not turn gradients into NaN.
    match = jnp.where(word_mask, match, -1e9)
    soft_maximum = jax.nn.logsumexp(gamma_word * match, axis=-1) / gamma_word
    return jnp.where(jnp.any(word_mask, axis=-1), soft_maximum, 0.0)


def word_nce(
    regions: Float[Array, "b r d"],
    words: Float[Array, "b t d"],
    word_mask: Bool[Array, "b t"],
    *,
    gamma_region: float = 5.0,
    gamma_word: float = 5.0,
    gamma_match: float = 50.0,
) -> LossAndAccuracy:
    """Contrastive loss between the regions of images and the words of captions.

    Cross-entropy over rows plus over columns of ``gamma_match * word_scores(...)``; image i and
    caption i belong together.

    Returns:
      Loss (nats) and in-batch retrieval accuracy, see `symmetric_cross_entropy`.
    """
    scores = word_scores(
        regions, words, word_mask, gamma_region=gamma_region, gamma_word=gamma_word
    )
    return symmetric_cross_entropy(gamma_match * scores)


def in_groups(loss: Callable[..., LossAndAccuracy], group_size: int) -> Callable:
    """Restricts a contrastive loss to negatives from consecutive groups of the batch.

    Used to compare with per-device negatives; the result is the mean over groups.

    Args:
      loss: A function of arrays that share a leading batch axis.
      group_size: Items in a group; must divide the batch. 0 means the whole batch.
    """
    if group_size == 0:
        return loss

    def grouped(*arrays: Array) -> LossAndAccuracy:
        split = [x.reshape(-1, group_size, *x.shape[1:]) for x in arrays]
        losses, accuracies = jax.vmap(loss)(*split)
        return jnp.mean(losses), jnp.mean(accuracies)

    return grouped
