"""The losses of the paper as pure functions of plain arrays, computed in float32.

The contrastive losses are those of the paper's "Contrastive Losses for Text-to-Image Synthesis".

Every reduction runs over the whole array it is given: pass the global batch. Under `jax.jit` a
batch that is split over devices is still one array here, so negatives are global.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from xmc_jax.attention import inverse_norm, l2_normalize, normalized_words
from xmc_jax.types import PyTree

GAMMA_MATCH = 50.0  # Inverse temperature of the word term.

# The word term has one attention weight for each image, region and word. It stores them for its
# gradient up to this number (256 MiB), and computes this many at a time (128 MiB): on GPUs one
# iteration takes half the time of four.
_MAX_STORED_WEIGHTS = 2**26
_WEIGHTS_PER_ITERATION = 2**25

LossAndAccuracy = tuple[Float[Array, ""], Float[Array, ""]]


def hinge_d_loss(
    real_logits: Float[Array, " b"], fake_logits: Float[Array, " b"]
) -> Float[Array, ""]:
    """The hinge loss of the discriminator, ``mean(relu(1 - real) + relu(1 + fake))``."""
    real_logits, fake_logits = real_logits.astype(jnp.float32), fake_logits.astype(jnp.float32)
    return jnp.mean(jax.nn.relu(1.0 - real_logits) + jax.nn.relu(1.0 + fake_logits))


def hinge_g_loss(fake_logits: Float[Array, " b"]) -> Float[Array, ""]:
    """The hinge loss of the generator, ``-mean(fake)``."""
    return -jnp.mean(fake_logits.astype(jnp.float32))


def mean_distances(
    images: Float[Array, "b h w 3"], others: Float[Array, "b h w 3"]
) -> Float[Array, " b"]:
    """The mean absolute difference of the values of each image and its other, in 0..2."""
    return jnp.mean(jnp.abs(images - others).astype(jnp.float32), axis=(1, 2, 3))


def nearest(
    candidates: Float[Array, "b k h w 3"], images: Float[Array, "b h w 3"]
) -> Int[Array, " b"]:
    """Which candidate has the smallest mean squared difference from its image, 0..k-1."""
    squared = jnp.square((candidates - images[:, None]).astype(jnp.float32))
    return jnp.argmin(jnp.mean(squared, axis=(2, 3, 4)), axis=1)


def squared_gradient_norms(
    score: Callable[[Array], Array], images: Float[Array, "b h w 3"]
) -> Float[Array, " b"]:
    """``||d score_i / d image_i||^2``; half its mean is the penalty R1 (Mescheder et al. 2018).

    Args:
      score: Gives each image a score that depends on no other image.
      images: The images at which the gradients are taken.
    """
    gradients = jax.grad(lambda images: jnp.sum(score(images)))(images)
    return jnp.sum(jnp.square(gradients), axis=(1, 2, 3))


def symmetric_cross_entropy(scores: Float[Array, "b b"]) -> LossAndAccuracy:
    """Cross-entropy over rows plus over columns; the targets are the diagonal.

    Entry (i, j) is a logit that scores item i of one kind against item j of the other.

    Returns:
      The sum of the two mean cross-entropies (nats, >= 0), and the retrieval accuracy: the fraction
      of diagonal entries above all others of their row or column, averaged over both directions
      (0..1).
    """
    scores = scores.astype(jnp.float32)
    # `jnp.diagonal` and `jnp.argmax` would move rows between the devices over which they are split.
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
      a: One vector per item. Only the direction matters.
      b: The partner of each row of `a`.
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
    """Scores of all images against all captions, from the matches of their words.

    For every word of every caption, a softmax over the regions of the image (sharpness
    ``gamma_region``) gives a context. The match of the word is its cosine with that context. The
    score of the caption is ``log(sum(exp(gamma_word * match))) / gamma_word`` over its valid words.
    A caption without valid words scores 0. The contexts are never formed; see `_match_words`.

    Args:
      regions: Region features of the images. Only their directions matter.
      words: Word embeddings of the captions; entries beyond the mask have no effect.
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
    # Not -inf, which would make the gradient of a caption of nothing but padding NaN.
    match = jnp.where(word_mask, match, -1e9)
    soft_maximum = jax.nn.logsumexp(gamma_word * match, axis=-1) / gamma_word
    return jnp.where(jnp.any(word_mask, axis=-1), soft_maximum, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _match_words(
    features: Float[Array, "b r d"], words: Float[Array, "m d"], gamma: float
) -> Float[Array, "b m"]:
    """The cosine of every word with its context in every image; all vectors have length 1 or 0.

    Let S = F W' be the similarities, A = exp(gamma S) the weights and G = F F' the Gram matrix of
    an image. The context of word j is F' a_j, and its cosine ``a_j's_j / sqrt(a_j' G a_j)``. So the
    context is never formed, A need not be normalised, and the gradient need not know the maximum
    that is subtracted in A.

    The gradient is written by hand because automatic differentiation does not know that G is
    symmetric, and would multiply by G once more. The weights are stored for it if they are few.
    Otherwise they are computed again, and memory is linear in the number of words. Similarities are
    never stored: they are the logarithms of the weights.
    """
    return _match_words_forward(features, words, gamma)[0]


def _match_words_forward(features: Array, words: Array, gamma: float) -> tuple[Array, PyTree]:
    store = features.shape[0] * features.shape[1] * len(words) <= _MAX_STORED_WEIGHTS

    def match(carry: None, features: Float[Array, "*k r d"]):
        similarity = features @ words.T
        peak = jnp.max(similarity, axis=-2, keepdims=True)
        weights = jnp.exp(gamma * (similarity - peak))
        gram_weights = (features @ features.mT) @ weights
        dot = jnp.sum(weights * similarity, axis=-2, keepdims=True)
        inverse = inverse_norm(jnp.sum(weights * gram_weights, axis=-2, keepdims=True))
        cosine = jnp.squeeze(dot * inverse, -2)
        return carry, (cosine, (weights if store else None, peak, dot, inverse))

    _, (cosine, parts) = _scan_images(match, None, features, len(words))
    return cosine, (features, words, parts)


def _match_words_backward(
    gamma: float, residuals: PyTree, cotangent: Float[Array, "b m"]
) -> tuple[Array, Array]:
    features, words, parts = residuals

    def pull_back(d_words: Array, images: PyTree):
        features, (weights, peak, dot, inverse), cotangent = images
        if weights is None:
            weights = jnp.exp(gamma * (features @ words.T - peak))
        d_dot = cotangent[..., None, :] * inverse
        d_squared_norm = -0.5 * d_dot * dot * inverse**2
        # A weight of zero has no finite logarithm, but its gradient is zero too.
        exponent = gamma * peak + jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny))
        gram_weights = (features @ features.mT) @ weights
        d_similarity = weights * (
            d_dot * (1.0 + exponent) + 2.0 * gamma * d_squared_norm * gram_weights
        )
        d_gram = (weights * d_squared_norm) @ weights.mT
        d_features = d_similarity @ words + 2.0 * d_gram @ features
        d_similarity, features = (x.reshape(-1, x.shape[-1]) for x in (d_similarity, features))
        return d_words + d_similarity.T @ features, d_features

    # Under shard_map a loop's carry must vary over the same mesh axes as the words do.
    zeros = 0.0 * words
    images = features, parts, cotangent
    d_words, d_features = _scan_images(pull_back, zeros, images, len(words))
    return d_features, d_words


_match_words.defvjp(_match_words_forward, _match_words_backward)


def _scan_images(body: Callable, carry: PyTree, images: PyTree, num_words: int) -> PyTree:
    """`jax.lax.scan` over images, several per iteration where that is faster."""
    # CPUs take one image at a time, whose weights fit their caches. Accelerators, which small
    # products leave idle, take as many images as have `_WEIGHTS_PER_ITERATION` weights together.
    num_images, num_regions = jax.tree.leaves(images)[0].shape[:2]
    most = max(_WEIGHTS_PER_ITERATION // (num_regions * num_words), 1)
    chunk_size = max(n for n in range(1, num_images + 1) if num_images % n == 0 and n <= most)

    def scan_chunks(carry: PyTree, images: PyTree) -> PyTree:
        chunks = jax.tree.map(lambda x: x.reshape(-1, chunk_size, *x.shape[1:]), images)
        carry, results = jax.lax.scan(body, carry, chunks)
        return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)

    scan = functools.partial(jax.lax.scan, body)
    return jax.lax.platform_dependent(carry, images, cpu=scan, default=scan_chunks)


def word_nce(
    regions: Float[Array, "b r d"],
    words: Float[Array, "b t d"],
    word_mask: Bool[Array, "b t"],
    *,
    gamma_region: float = 5.0,
    gamma_word: float = 5.0,
    gamma_match: float = GAMMA_MATCH,
) -> LossAndAccuracy:
    """Contrastive loss between the regions of images and the words of captions.

    `symmetric_cross_entropy` of ``gamma_match * word_scores(...)``; image i belongs to caption i.
    """
    scores = word_scores(
        regions, words, word_mask, gamma_region=gamma_region, gamma_word=gamma_word
    )
    return symmetric_cross_entropy(gamma_match * scores)


def in_groups(loss: Callable[..., LossAndAccuracy], group_size: int) -> Callable:
    """Restricts a contrastive loss to negatives from groups of consecutive items.

    The loss is then the mean over groups, as with per-device negatives. The group size must divide
    the batch; 0 means the whole batch.
    """
    if group_size == 0:
        return loss

    def grouped(*arrays: Array) -> LossAndAccuracy:
        split = [x.reshape(-1, group_size, *x.shape[1:]) for x in arrays]
        losses, accuracies = jax.vmap(loss)(*split)
        return jnp.mean(losses), jnp.mean(accuracies)

    return grouped
