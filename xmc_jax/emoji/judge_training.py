"""Training of the judge on real images, and its accuracy on held-out ones."""

import hashlib
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int

from xmc_jax.console import Progress
from xmc_jax.data import catalog, preprocess
from xmc_jax.data.builders.emoji.packages import Emoji, parse_codes
from xmc_jax.data.builders.emoji.splits import parse_parts
from xmc_jax.emoji.judge import SentenceEncoder, Towers, embed_images, init_towers, resize
from xmc_jax.images import from_uint8
from xmc_jax.metrics import r_precision as metric
from xmc_jax.types import PyTree

NUM_OTHERS = 31  # Captions beside the true one, in measurements.

_FORM, _RESOLUTION = "sq64", 64
_BATCH_SIZE = 128
_LEARNING_RATE, _WEIGHT_DECAY = 2e-3, 0.05
# Of augmentations: largest shift in pixels, largest change of the logarithm of the size, standard
# deviation of changes of colours, and largest standard deviation of noise; pixels in [-1, 1].
_SHIFT, _SIZE, _COLOUR, _NOISE = 3.0, 0.15, 0.1, 0.1
_HELD_OUT = 10  # One concept of so many is held out to choose settings.
_NUM_DRAWS = 5  # Of captions; the mean of their accuracies is printed.


class Examples(NamedTuple):
    """A split, as the judge sees it.

    Attributes:
      ids: Names of the images.
      images: At the judge's side, in [-1, 1].
      texts: All captions, image after image.
      sentences: Their embeddings.
      starts: Index of the first caption of each image.
      counts: Number of captions of each image.
    """

    ids: list[str]
    images: Float32[np.ndarray, "n side side 3"]
    texts: list[str]
    sentences: Float32[np.ndarray, "m e"]
    starts: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, " n"]

    def draw_captions(
        self, indices: Int[np.ndarray, " k"], rng: np.random.Generator
    ) -> Int[np.ndarray, " k"]:
        """For each of some images the index of one of its captions."""
        return self.starts[indices] + rng.integers(self.counts[indices])


def read_examples(split: str, data_dir: str, encoder: SentenceEncoder) -> Examples:
    """Reads a split and encodes its captions; raises UserError if the data set is not there."""
    source = catalog.open_split("emoji", form=_FORM, split=split, data_dir=data_dir)
    records = source.read(range(len(source)))
    pixels = [
        preprocess.load(r["image"], r["image/id"], _RESOLUTION, crop="squash", antialias=True)
        for r in records
    ]
    captions = [record["captions"]["text"] for record in records]
    texts, counts = [text for own in captions for text in own], np.array(list(map(len, captions)))
    return Examples(
        [record["image/id"] for record in records],
        np.asarray(jax.jit(resize)(from_uint8(np.stack(pixels)))),
        texts,
        encoder.encode(texts),
        np.cumsum(counts) - counts,
        counts,
    )


def hold_out(examples: Examples) -> Bool[np.ndarray, " n"]:
    """Which images show one of the concepts that are held out to choose settings."""
    phrases = [examples.texts[start] for start in examples.starts]
    labels = [re.sub("^an? ", "", phrase) for phrase in phrases]
    parts = [
        parse_parts(Emoji(parse_codes(name), label, group="", subgroup=0, tags=()))
        for name, label in zip(examples.ids, labels, strict=True)
    ]
    hashes = (hashlib.sha256(repr(x.concept).encode()).digest() for x in parts)
    return np.array([int.from_bytes(x[:8]) % _HELD_OUT == 0 for x in hashes])


def train(examples: Examples, indices: Int[np.ndarray, " n"], num_steps: int, seed: int) -> PyTree:
    """Trains from random weights on some images of a split; a function of the arguments."""
    # Warmup over a twentieth of the training, then cosine decay to zero.
    schedule = optax.warmup_cosine_decay_schedule(0.0, _LEARNING_RATE, num_steps // 20, num_steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
    )

    @jax.jit
    def step(params, state, images, sentences, key):
        loss, gradients = jax.value_and_grad(_loss)(params, images, sentences, key)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    params = init_towers(key)
    state = optimizer.init(params)
    progress = Progress(num_steps, name="train", unit="steps")
    order = rng.permutation(indices)
    for index in range(num_steps):
        if len(order) < _BATCH_SIZE:
            order = rng.permutation(indices)
        chosen, order = order[:_BATCH_SIZE], order[_BATCH_SIZE:]
        sentences = examples.sentences[examples.draw_captions(chosen, rng)]
        batch = examples.images[chosen], sentences, jax.random.fold_in(key, index)
        params, state, loss = step(params, state, *batch)
        progress.tell(index + 1, note=f"loss {loss:.4f}")
    return params


def _loss(
    params: PyTree, images: Float[Array, "b h w 3"], sentences: Float[Array, "b e"], key: Array
) -> Float[Array, ""]:
    """Symmetric InfoNCE in nats: the images of a batch choose their captions, and vice versa."""
    augmentation, dropout = jax.random.split(key)
    images = augment(images, augmentation)
    logits = Towers().apply(params, images, sentences, True, rngs={"dropout": dropout})
    own = jnp.arange(len(logits))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return (cross_entropy(logits, own).mean() + cross_entropy(logits.T, own).mean()) / 2


def augment(images: Float[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
    """Imperfect copies of images on white: moved, resized, recoloured, blurred and noisy."""
    b, side, *_ = images.shape
    keys = jax.random.split(key, 7)

    def uniform(key, *shape):
        return jax.random.uniform(key, (b, *shape), minval=-1.0)

    sizes = jnp.exp(_SIZE * jnp.broadcast_to(uniform(keys[0], 1), (b, 2)))
    shifts = _SHIFT * uniform(keys[1], 2) + side / 2 * (1 - sizes)

    def move(image, size, shift):
        # Outside is 0, which is white.
        return jax.image.scale_and_translate(
            image - 1.0, image.shape, (0, 1), size, shift, "linear", antialias=False
        )

    images = jax.vmap(move)(images, sizes, shifts) + 1.0
    # Half of the images are blurred.
    blurred = nn.avg_pool(images, (3, 3), padding="SAME", count_include_pad=False)
    blurred = nn.avg_pool(blurred, (3, 3), padding="SAME", count_include_pad=False)
    images += jnp.maximum(uniform(keys[2], 1, 1, 1), 0.0) * (blurred - images)
    images *= jnp.exp(_COLOUR * jax.random.normal(keys[3], (b, 1, 1, 3)))
    images += _COLOUR * jax.random.normal(keys[4], (b, 1, 1, 3))
    strength = _NOISE * jnp.abs(uniform(keys[5], 1, 1, 1))
    return images + strength * jax.random.normal(keys[6], images.shape)


def measure(params: PyTree, examples: Examples, indices: Int[np.ndarray, " n"]) -> float:
    """Share of images whose caption the judge finds among 32, a mean over several draws.

    Draws differ in the caption of each image and in the captions of other images beside it.
    """
    images = np.asarray(jax.jit(embed_images)(params, examples.images[indices]))
    project = jax.jit(lambda params, x: Towers().apply(params, x, method="embed_sentences"))
    texts = np.asarray(project(params, examples.sentences))
    values = []
    for seed in range(_NUM_DRAWS):
        drawn = examples.draw_captions(indices, np.random.default_rng(seed))
        meanings = [examples.texts[i] for i in drawn]
        candidates = metric.sample_candidates(
            indices.tolist(), meanings, num_others=NUM_OTHERS, seed=seed
        )
        values.append(metric.r_precision(images, texts[drawn], candidates).value)
    return float(np.mean(values))
