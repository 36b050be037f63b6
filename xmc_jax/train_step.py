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
      sentence: Between an image and its sentence.
      word: Between an image's regions and its words.
      image_d: Between fake and real in the discriminator's features.
      image_pretrained: Between fake and real in a pretrained network's features.
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
    algorithm = _Algorithm(
        players=_Players(generator, discriminator),
        generator_tx=generator_tx,
        discriminator_tx=discriminator_tx,
        encode_text=encode_text,
        objectives=_Objectives(loss_weights, info_nce, word_nce, image_features),
        ema_decay=ema_decay,
        flip=flip,
    )
    return algorithm.train_step


class _Example(NamedTuple):
    """One micro-batch, ready for the networks."""

    real: Float[Array, "b h w 3"]
    text: Text
    z: Float[Array, "b z"]


class _Moved(NamedTuple):
    """The state that a forward pass in training mode moves on."""

    generator_stats: PyTree
    spectral: PyTree


class _Players(NamedTuple):
    """The two networks."""

    generator: nn.Module
    discriminator: nn.Module

    def forward(
        self, g_params: PyTree, d_params: PyTree, state: TrainState, example: _Example
    ) -> tuple[tuple[Array, DiscriminatorOutput], _Moved]:
        """Fakes, what the discriminator says of reals (view 0) and fakes (view 1), new state."""
        fake, g_moved = self.generator.apply(
            {"params": g_params, BATCH_STATS: state.generator_stats},
            example.z,
            *example.text,
            train=True,
            mutable=[BATCH_STATS],
        )
        output, d_moved = self.discriminator.apply(
            {"params": d_params, SPECTRAL: state.spectral},
            jnp.stack([example.real, fake], axis=1),
            example.text.sentence,
            train=True,
            mutable=[SPECTRAL],
        )
        return (fake, output), _Moved(g_moved[BATCH_STATS], d_moved[SPECTRAL])


class _Objectives(NamedTuple):
    """What each player minimises, as a function of the networks' outputs."""

    weights: LossWeights
    info_nce: Callable[..., losses.LossAndAccuracy]
    word_nce: Callable[..., losses.LossAndAccuracy]
    image_features: ImageFeatures | None

    def d_loss(self, output: DiscriminatorOutput, text: Text) -> tuple[Array, Metrics]:
        """Hinge, and real images against their captions."""
        real_logits, fake_logits = output.logits[:, 0], output.logits[:, 1]
        pooled, regions = output.pooled[:, 0], output.regions[:, 0]
        metrics = {
            "d/hinge": losses.hinge_d_loss(real_logits, fake_logits),
            "d/real_logit": jnp.mean(real_logits),
            "d/fake_logit": jnp.mean(fake_logits),
        }
        return self._total("d", metrics, self._text_terms(pooled, regions, output, text))

    def g_loss(
        self,
        fake: Float[Array, "b h w 3"],
        output: DiscriminatorOutput,
        example: _Example,
        frozen: FrozenParams,
    ) -> tuple[Array, Metrics]:
        """Hinge, fake images against their captions, and against the real images of these."""
        pooled, regions = output.pooled[:, 1], output.regions[:, 1]

        def image_pretrained() -> losses.LossAndAccuracy:
            real_features = self.image_features(frozen.image, example.real)
            return self.info_nce(real_features, self.image_features(frozen.image, fake))

        metrics = {"g/hinge": losses.hinge_g_loss(output.logits[:, 1])}
        terms = self._text_terms(pooled, regions, output, example.text)
        terms["image_d"] = lambda: self.info_nce(pooled, output.pooled[:, 0])
        terms["image_pretrained"] = image_pretrained
        return self._total("g", metrics, terms)

    def _text_terms(
        self, pooled: Array, regions: Array, output: DiscriminatorOutput, text: Text
    ) -> dict[str, Callable[[], losses.LossAndAccuracy]]:
        return {
            "sentence": lambda: self.info_nce(pooled, output.sentence),
            "word": lambda: self.word_nce(regions, text.words, text.word_mask),
        }

    def _total(
        self, player: str, metrics: Metrics, terms: dict[str, Callable]
    ) -> tuple[Array, Metrics]:
        """Adds the terms whose weight is not 0, and only computes these."""
        loss = metrics[f"{player}/hinge"]
        for name, compute in terms.items():
            if weight := getattr(self.weights, name):
                value, accuracy = compute()
                metrics |= {f"{player}/{name}": value, f"{player}/{name}_accuracy": accuracy}
                loss = loss + weight * value
        return loss, metrics | {f"{player}/loss": loss}


class _Algorithm(NamedTuple):
    """The step of `make_train_step`, in parts."""

    players: _Players
    generator_tx: optax.GradientTransformation
    discriminator_tx: optax.GradientTransformation
    encode_text: EncodeText
    objectives: _Objectives
    ema_decay: float
    flip: bool

    def train_step(
        self, state: TrainState, batch: Batch, frozen: FrozenParams, rng: Array
    ) -> tuple[TrainState, Metrics]:
        """One generator update; see `make_train_step`."""
        rng = jax.random.fold_in(rng, state.step)
        *for_discriminator, for_both = (
            self._prepare(jax.tree.map(lambda x, i=i: x[i], batch), frozen, rng, i)
            for i in range(batch.image.shape[0])
        )
        for example in for_discriminator:
            state = self._update_discriminator(state, example)
        return self._update_both(state, example=for_both, frozen=frozen)

    def _prepare(self, micro_batch: Batch, frozen: FrozenParams, rng: Array, index: int):
        z_rng, flip_rng = jax.random.split(jax.random.fold_in(rng, index))
        real = images.from_uint8(micro_batch.image)
        if self.flip:
            real = images.random_flip(real, flip_rng)
        text = Text(*self.encode_text(frozen.text, micro_batch.tokens))
        z = jax.random.normal(z_rng, (real.shape[0], self.players.generator.z_dim))
        return _Example(real, text, z)

    def _update_discriminator(self, state: TrainState, example: _Example) -> TrainState:
        def loss(d_params: PyTree):
            (_, output), moved = self.players.forward(state.generator, d_params, state, example)
            return self.objectives.d_loss(output, example.text)[0], moved

        # The generator's running statistics move with its own updates only.
        grads, moved = jax.grad(loss, has_aux=True)(state.discriminator)
        params, optimizer = _descend(
            self.discriminator_tx, grads, state.discriminator_optimizer, state.discriminator
        )
        return state.replace(
            discriminator=params, discriminator_optimizer=optimizer, spectral=moved.spectral
        )

    def _update_both(
        self, state: TrainState, example: _Example, frozen: FrozenParams
    ) -> tuple[TrainState, Metrics]:
        # One forward pass and one gradient a player: each loss is differentiated down to the
        # networks' outputs, and only its own cotangent is pulled back. (Pulling both losses back
        # with weights (1, 0) and (0, 1) would compute the zero halves too.)
        (fake, output), pull_back, moved = jax.vjp(
            lambda g, d: self.players.forward(g, d, state, example),
            state.generator,
            state.discriminator,
            has_aux=True,
        )
        d_cotangent, d_metrics = jax.grad(self.objectives.d_loss, has_aux=True)(
            output, example.text
        )
        g_cotangents, g_metrics = jax.grad(self.objectives.g_loss, argnums=(0, 1), has_aux=True)(
            fake, output, example, frozen
        )
        _, d_grads = pull_back((jnp.zeros_like(fake), d_cotangent))
        g_grads, _ = pull_back(g_cotangents)

        d_params, d_optimizer = _descend(
            self.discriminator_tx, d_grads, state.discriminator_optimizer, state.discriminator
        )
        g_params, g_optimizer = _descend(
            self.generator_tx, g_grads, state.generator_optimizer, state.generator
        )
        new = {"params": g_params, BATCH_STATS: moved.generator_stats}
        state = TrainState(
            step=state.step + 1,
            generator=g_params,
            generator_stats=moved.generator_stats,
            discriminator=d_params,
            spectral=moved.spectral,
            ema=optax.incremental_update(new, state.ema, 1.0 - self.ema_decay),
            generator_optimizer=g_optimizer,
            discriminator_optimizer=d_optimizer,
        )
        return state, d_metrics | g_metrics


def _descend(
    tx: optax.GradientTransformation, grads: PyTree, optimizer_state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
    updates, optimizer_state = tx.update(grads, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state


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
