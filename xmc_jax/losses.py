"""The losses of the paper, as pure functions of plain arrays, in float32.

The contrastive ones are those of the paper's "Contrastive Losses for Text-to-Image Synthesis".

Every reduction runs over the whole array it is given: hand in the global batch. Under `jax.jit`
a batch that is sharded over devices is still one array here, so negatives are global.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from xmc_jax.attention import inverse_norm, l2_normalize, normalized_words
from xmc_jax.types import PyTree

# Weights of regions for words that the word term keeps for its gradient, 256 MiB, and that it works
# on at a time, 128 MiB: on GPUs one turn takes half the time of four.
_KEPT_WEIGHTS = 2**26
_WEIGHTS_A_TURN = 2**25

LossAndAccuracy = tuple[Float[Array, ""], Float[Array, ""]]


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
      above all others of their row or column, averaged over the two directions (0..1).
    """
    scores = scores.astype(jnp.float32)
    # Neither `jnp.diagonal` nor `jnp.argmax`: split rows would travel between devices for them.
    is_target = jnp.eye(len(scores), dtype=bool)
    diagonal = jnp.sum(jnp.where(is_target, scores, 0.0), axis=1)
    others = jnp.where(is_target, -jnp.inf, scores)
    row_loss = jnp.mean(jax.nn.logsumexp(scores, axis=1) - diagonal)
    column_loss = jnp.mean(jax.nn.logsumexp(scores, axis=0) - diagonal)
    row_accuracy = jnp.mean(diagonal > jnp.max(others, axis=1))
    column_accuracy = jnp.mean(diagonal > jnp.max(others, axis=0))
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

    No context is ever formed, see `_match_words`.

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
    queries = normalized_words(words, word_mask).reshape(num_captions * num_words, width)

    match = _match_words(l2_normalize(regions), queries, gamma_region)
    match = match.reshape(-1, num_captions, num_words)
    # Finite stand-in for -inf: a caption that is all padding must not turn gradients into NaN.
    match = jnp.where(word_mask, match, -1e9)
    soft_maximum = jax.nn.logsumexp(gamma_word * match, axis=-1) / gamma_word
    return jnp.where(jnp.any(word_mask, axis=-1), soft_maximum, 0.0)


class _WordMatch(NamedTuple):
    """What ``match = dot * inverse`` of images and words is made of, see `_match_words`.

    Attributes:
      weights: ``exp(gamma * (similarity - peak))``.
      peak: The largest similarity of a word in an image.
      dot: The sum of weights times similarities.
      inverse: One over the length of the context.
    """

    weights: Float[Array, "*k r m"]
    peak: Float[Array, "*k 1 m"]
    dot: Float[Array, "*k 1 m"]
    inverse: Float[Array, "*k 1 m"]


def _word_match(
    features: Float[Array, "*k r d"], words: Float[Array, "m d"], gamma: float
) -> _WordMatch:
    similarity = features @ words.T
    peak = jnp.max(similarity, axis=-2, keepdims=True)
    weights = jnp.exp(gamma * (similarity - peak))
    gram_weights = (features @ features.mT) @ weights
    dot = jnp.sum(weights * similarity, axis=-2, keepdims=True)
    squared_norm = jnp.sum(weights * gram_weights, axis=-2, keepdims=True)
    return _WordMatch(weights, peak, dot, inverse_norm(squared_norm))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _match_words(
    features: Float[Array, "b r d"], words: Float[Array, "m d"], gamma: float
) -> Float[Array, "b m"]:
    """The cosine of every word with its context in every image; vectors of length one or zero.

    With similarities S = F W', weights A = exp(gamma S) and the Gram matrix G = F F', word j has
    the context F' a_j, so its cosine is ``a_j's_j / sqrt(a_j' G a_j)``: the context is never
    formed, and A need not be normalised, nor its largest entry known to the gradient.

    The gradient is spelled out because automatic differentiation does not know that G is
    symmetric, and would multiply by it once more. It finds the weights stored where these are few,
    and computes them again where they are many: memory is then linear in the number of words.
    Similarities are never stored: they are the weights' logarithms.
    """
    return _match_words_forward(features, words, gamma)[0]


def _match_words_forward(
    features: Array, words: Array, gamma: float
) -> tuple[Array, tuple[Array, Array, _WordMatch]]:
    keep = features.shape[0] * features.shape[1] * len(words) <= _KEPT_WEIGHTS

    def match(carry: None, features: Float[Array, "*k r d"]):
        parts = _word_match(features, words, gamma)
        cosine = jnp.squeeze(parts.dot * parts.inverse, -2)
        return carry, (cosine, parts if keep else parts._replace(weights=None))

    _, (cosine, parts) = _scan_images(match, None, features, len(words))
    return cosine, (features, words, parts)


def _match_words_backward(
    gamma: float, residuals: tuple[Array, Array, _WordMatch], cotangent: Float[Array, "b m"]
) -> tuple[Array, Array]:
    features, words, parts = residuals

    def pull_back(d_words: Array, images: tuple[Array, _WordMatch, Array]):
        features, (weights, peak, dot, inverse), cotangent = images
        if weights is None:
            weights = jnp.exp(gamma * (features @ words.T - peak))
        d_dot = cotangent[..., None, :] * inverse
        d_squared_norm = -0.5 * d_dot * dot * inverse**2
        # A weight of zero, whose logarithm is none, has no gradient either.
        exponent = gamma * peak + jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny))
        gram_weights = (features @ features.mT) @ weights
        d_similarity = weights * (
            d_dot * (1.0 + exponent) + 2.0 * gamma * d_squared_norm * gram_weights
        )
        d_gram = (weights * d_squared_norm) @ weights.mT
        d_features = d_similarity @ words + 2.0 * d_gram @ features
        d_similarity, features = (x.reshape(-1, x.shape[-1]) for x in (d_similarity, features))
        return d_words + d_similarity.T @ features, d_features

    # Zeros that vary over the mesh axes that words vary over, as a loop's carry must.
    zeros = 0.0 * words
    images = features, parts, cotangent
    d_words, d_features = _scan_images(pull_back, zeros, images, len(words))
    return d_features, d_words


_match_words.defvjp(_match_words_forward, _match_words_backward)


def _scan_images(body: Callable, carry: PyTree, images: PyTree, num_words: int) -> PyTree:
    """`jax.lax.scan` over images, several a turn where that is faster.

    One by one on CPUs, whose caches hold the weights of one image; elsewhere as many as have
    `_WEIGHTS_A_TURN` together, since small products leave an accelerator idle.
    """
    num_images, num_regions = jax.tree.leaves(images)[0].shape[:2]
    most = max(_WEIGHTS_A_TURN // (num_regions * num_words), 1)
    at_once = max(n for n in range(1, num_images + 1) if num_images % n == 0 and n <= most)

    def several(carry: PyTree, images: PyTree) -> PyTree:
        turns = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), images)
        carry, results = jax.lax.scan(body, carry, turns)
        return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)

    one_by_one = functools.partial(jax.lax.scan, body)
    return jax.lax.platform_dependent(carry, images, cpu=one_by_one, default=several)


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
