"""The algorithm: one training step and one sampling step, as pure functions (paper, section 4).

Nothing here knows of files, clocks or flags. Frozen networks arrive as functions whose weights are
arguments, so that no compiled program carries them as constants.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int32, UInt8

from xmc_jax import images, losses
from xmc_jax.models.discriminator import DiscriminatorOutput
from xmc_jax.models.layers import SPECTRAL
from xmc_jax.sharding import DATA_AXIS
from xmc_jax.train_state import BATCH_STATS, TrainState
from xmc_jax.types import Batch

PyTree = Any
Metrics = dict[str, Float[Array, ""]]
EncodeText = Callable[
    [PyTree, Int32[Array, "b t"]],
    tuple[Float[Array, "b t d"], Float[Array, "b d"], Bool[Array, "b t"]],
]
ImageFeatures = Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b n"]]

WORD_GAMMA_MATCH = 50.0  # Inverse temperature of the word term.


class FrozenParams(NamedTuple):
    """Weights of the pretrained networks, which no update touches."""

    text: PyTree
    image: PyTree = None


class LossWeights(NamedTuple):
    """Weights of the contrastive terms; a term of weight 0 is not computed at all.

    Attributes:
      sentence: Between an image and its sentence (equation 3).
      word: Between an image's regions and its words (equation 8).
      image_d: Between fake and real in the discriminator's features (equation 4).
      image_pretrained: Between fake and real in a pretrained network's features (equation 4).
    """

    sentence: float = 1.0
    word: float = 1.0
    image_d: float = 1.0
    image_pretrained: float = 0.0


class Text(NamedTuple):
    """An encoded caption batch."""

    words: Float[Array, "b t d"]
    sentence: Float[Array, "b d"]
    word_mask: Bool[Array, "b t"]


def make_contrastive_terms(mesh: Mesh | None, group_size: int) -> tuple[Callable, Callable]:
    """The contrastive losses for a mesh: ``(info_nce, word_nce)`` over global or grouped batches.

    With global negatives the word term runs as an island of per-device code: each device scores
    its own images against all captions, whose word embeddings it gathers, and only the score
    matrix leaves the island. Left to the partitioner, the same loop moves whole activations.

    Args:
      mesh: The devices, or None for plain arrays.
      group_size: Negatives come from groups of this many consecutive items; 0 means all.
    """
    info_nce = losses.in_groups(losses.info_nce, group_size)
    if group_size or mesh is None or mesh.shape[DATA_AXIS] == 1:
        return info_nce, losses.in_groups(losses.word_nce, group_size)

    def score_local_images(regions: Array, words: Array, word_mask: Array) -> Array:
        words, word_mask = jax.lax.all_gather((words, word_mask), DATA_AXIS, tiled=True)
        return losses.word_scores(regions, words, word_mask)

    split = PartitionSpec(DATA_AXIS)
    scores = jax.shard_map(
        score_local_images, mesh=mesh, in_specs=(split, split, split), out_specs=split
    )

    def word_nce(regions: Array, words: Array, word_mask: Array) -> losses.LossAndAccuracy:
        return losses.symmetric_cross_entropy(WORD_GAMMA_MATCH * scores(regions, words, word_mask))

    return info_nce, word_nce


def make_train_step(
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    encode_text: EncodeText,
    image_features: ImageFeatures | None = None,
    loss_weights: LossWeights,
    ema_decay: float,
    flip: bool,
    contrastive_group_size: int = 0,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Batch, FrozenParams, Array], tuple[TrainState, Metrics]]:
    """Builds the training step.

    A step takes as many micro-batches as the batch has along its first axis. All but the last
    update the discriminator alone; on the last, one forward pass of both networks gives both
    players' losses, and both are updated at once from gradients at the same parameters.

    Args:
      generator: A `Generator`.
      discriminator: A `Discriminator`.
      generator_tx: Optimizer of the generator.
      discriminator_tx: Optimizer of the discriminator.
      encode_text: ``(params, tokens) -> (words, sentence, word_mask)``.
      image_features: ``(params, images in [-1, 1]) -> features``; needed if its weight is not 0.
      loss_weights: Weights of the contrastive terms.
      ema_decay: Decay of the generator's moving averages, 0..1, per generator update.
      flip: Whether to mirror real images at random.
      contrastive_group_size: See `make_contrastive_terms`.
      mesh: The devices the batch is sharded over, or None.

    Returns:
      ``train_step(state, batch, frozen, rng) -> (state, metrics)``, a pure function: its noise
      comes from `rng` folded with ``state.step``. Metrics are float32 scalars named ``d/…`` and
      ``g/…``, each term with its loss and its in-batch retrieval accuracy.

    Raises:
      ValueError: the pretrained-image term has a weight but no network.
    """
    if loss_weights.image_pretrained and image_features is None:
        raise ValueError("loss_weights.image_pretrained is not 0, but image_features is None")
    info_nce, word_nce = make_contrastive_terms(mesh, contrastive_group_size)

    def forward(g_params: PyTree, d_params: PyTree, state: TrainState, real, text: Text, z):
        """Both networks on one micro-batch: outputs and the state they moved."""
        fake, g_moved = generator.apply(
            {"params": g_params, BATCH_STATS: state.generator_stats},
            z,
            *text,
            train=True,
            mutable=[BATCH_STATS],
        )
        output, d_moved = discriminator.apply(
            {"params": d_params, SPECTRAL: state.spectral},
            jnp.stack([real, fake], axis=1),
            text.sentence,
            train=True,
            mutable=[SPECTRAL],
        )
        return fake, output, g_moved[BATCH_STATS], d_moved[SPECTRAL]

    def total(terms: dict[str, tuple[float, Callable]], metrics: Metrics, prefix: str) -> Array:
        """The weighted sum of the terms whose weight is not 0; their figures go to `metrics`."""
        loss = metrics[f"{prefix}/hinge"]
        for name, (weight, compute) in terms.items():
            if weight:
                value, accuracy = compute()
                metrics[f"{prefix}/{name}"] = value
                metrics[f"{prefix}/{name}_accuracy"] = accuracy
                loss = loss + weight * value
        metrics[f"{prefix}/loss"] = loss
        return loss

    def d_loss(output: DiscriminatorOutput, text: Text) -> tuple[Array, Metrics]:
        real_logits, fake_logits = output.logits[:, 0], output.logits[:, 1]
        metrics = {
            "d/hinge": losses.hinge_d_loss(real_logits, fake_logits),
            "d/real_logit": jnp.mean(real_logits),
            "d/fake_logit": jnp.mean(fake_logits),
        }
        pooled, regions = output.pooled[:, 0], output.regions[:, 0]
        terms = {
            "sentence": (loss_weights.sentence, lambda: info_nce(pooled, output.sentence)),
            "word": (loss_weights.word, lambda: word_nce(regions, text.words, text.word_mask)),
        }
        return total(terms, metrics, "d"), metrics

    def g_loss(fake, output: DiscriminatorOutput, text: Text, real, frozen: FrozenParams):
        metrics = {"g/hinge": losses.hinge_g_loss(output.logits[:, 1])}
        pooled, regions = output.pooled[:, 1], output.regions[:, 1]

        def image_pretrained() -> losses.LossAndAccuracy:
            real_features = jax.lax.stop_gradient(image_features(frozen.image, real))
            return info_nce(real_features, image_features(frozen.image, fake))

        terms = {
            "sentence": (loss_weights.sentence, lambda: info_nce(pooled, output.sentence)),
            "word": (loss_weights.word, lambda: word_nce(regions, text.words, text.word_mask)),
            "image_d": (loss_weights.image_d, lambda: info_nce(pooled, output.pooled[:, 0])),
            "image_pretrained": (loss_weights.image_pretrained, image_pretrained),
        }
        return total(terms, metrics, "g"), metrics

    def prepare(micro_batch: Batch, frozen: FrozenParams, rng: Array) -> tuple[Array, Text, Array]:
        z_rng, flip_rng = jax.random.split(rng)
        real = images.from_uint8(micro_batch.image)
        if flip:
            real = images.random_flip(real, flip_rng)
        text = Text(*jax.lax.stop_gradient(encode_text(frozen.text, micro_batch.tokens)))
        z = jax.random.normal(z_rng, (real.shape[0], generator.z_dim))
        return real, text, z

    def update(tx: optax.GradientTransformation, grads, optimizer_state, params):
        updates, optimizer_state = tx.update(grads, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    def update_discriminator(state: TrainState, micro_batch: Batch, frozen, rng) -> TrainState:
        real, text, z = prepare(micro_batch, frozen, rng)

        def loss(d_params: PyTree):
            _, output, _, spectral = forward(state.generator, d_params, state, real, text, z)
            return d_loss(output, text)[0], spectral

        grads, spectral = jax.grad(loss, has_aux=True)(state.discriminator)
        params, optimizer_state = update(
            discriminator_tx, grads, state.discriminator_optimizer, state.discriminator
        )
        return state.replace(
            discriminator=params, discriminator_optimizer=optimizer_state, spectral=spectral
        )

    def update_both(state: TrainState, micro_batch: Batch, frozen, rng):
        real, text, z = prepare(micro_batch, frozen, rng)

        def play(g_params: PyTree, d_params: PyTree):
            fake, output, stats, spectral = forward(g_params, d_params, state, real, text, z)
            return (fake, output), (stats, spectral)

        # One forward pass and one gradient a player: each loss is differentiated down to the
        # networks' outputs, and only its own cotangent is pulled back. (Pulling both losses back
        # with weights (1, 0) and (0, 1) would compute the zero halves too.)
        (fake, output), pull_back, (stats, spectral) = jax.vjp(
            play, state.generator, state.discriminator, has_aux=True
        )
        d_cotangent, d_metrics = jax.grad(d_loss, has_aux=True)(output, text)
        g_cotangents, g_metrics = jax.grad(g_loss, argnums=(0, 1), has_aux=True)(
            fake, output, text, real, frozen
        )
        _, d_grads = pull_back((jnp.zeros_like(fake), d_cotangent))
        g_grads, _ = pull_back(g_cotangents)

        d_params, d_optimizer = update(
            discriminator_tx, d_grads, state.discriminator_optimizer, state.discriminator
        )
        g_params, g_optimizer = update(
            generator_tx, g_grads, state.generator_optimizer, state.generator
        )
        ema = optax.incremental_update(
            {"params": g_params, BATCH_STATS: stats}, state.ema, 1.0 - ema_decay
        )
        state = TrainState(
            step=state.step + 1,
            generator=g_params,
            generator_stats=stats,
            discriminator=d_params,
            spectral=spectral,
            ema=ema,
            generator_optimizer=g_optimizer,
            discriminator_optimizer=d_optimizer,
        )
        return state, d_metrics | g_metrics

    def train_step(state: TrainState, batch: Batch, frozen: FrozenParams, rng: Array):
        """One generator update; see `make_train_step`."""
        rng = jax.random.fold_in(rng, state.step)
        num_micro_batches = batch.image.shape[0]
        for index in range(num_micro_batches - 1):
            micro_batch = jax.tree.map(lambda x, i=index: x[i], batch)
            state = update_discriminator(state, micro_batch, frozen, jax.random.fold_in(rng, index))
        last = jax.tree.map(lambda x: x[-1], batch)
        return update_both(state, last, frozen, jax.random.fold_in(rng, num_micro_batches - 1))

    return train_step


def make_sample_step(
    *, generator: nn.Module, encode_text: EncodeText
) -> Callable[[PyTree, PyTree, Array, Array], UInt8[Array, "b h w 3"]]:
    """Builds ``sample(ema, text_params, tokens, z) -> images``, 8-bit pixels.

    The generator runs on the moving averages of both its parameters and its running statistics.
    """

    def sample(
        ema: PyTree, text_params: PyTree, tokens: Int32[Array, "b t"], z: Float[Array, "b z"]
    ) -> UInt8[Array, "b h w 3"]:
        text = encode_text(text_params, tokens)
        return images.to_uint8(generator.apply(ema, z, *text, train=False))

    return sample
