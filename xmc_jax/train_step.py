"""The algorithm: one training step and one sampling step, as pure functions (paper, section 4).

Nothing here knows of files, clocks or flags. Frozen networks arrive as functions whose weights are
arguments, so that no compiled program carries them as constants.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int32, UInt8

from xmc_jax import images
from xmc_jax.accumulation import in_parts
from xmc_jax.models.discriminator import DiscriminatorOutput
from xmc_jax.models.layers import BLOCK_OUTPUT, INNER_MAP, SPECTRAL, SPECTRAL_NORM
from xmc_jax.models.ops.normalization import RELU_OUTPUT
from xmc_jax.objectives import (
    LossWeights,
    Metrics,
    NetworkOutputs,
    Objectives,
    Text,
    make_contrastive_terms,
)
from xmc_jax.parallel import sharding
from xmc_jax.train_state import BATCH_STATS, TrainState
from xmc_jax.types import Batch, PyTree

EncodeText = Callable[
    [PyTree, Int32[Array, "b t"]],
    tuple[Float[Array, "b t d"], Float[Array, "b d"], Bool[Array, "b t"]],
]
ImageFeatures = Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b n"]]


def _is_sum(primitive, *_, **__) -> bool:
    return primitive.name == "reduce_sum"  # Few numbers, for a pass over a map.


# What a network's backward pass finds stored; it recomputes the rest. Nothing is the default: one
# map for each convolution (normalisations, modulations and what is done to kernels are computed
# again, which costs little), or the maps between residual blocks alone (every block is computed
# again).
_names = jax.checkpoint_policies.save_only_these_names
REMAT_POLICIES = {
    "none": None,
    "elementwise": jax.checkpoint_policies.save_from_both_policies(
        _names(BLOCK_OUTPUT, INNER_MAP, RELU_OUTPUT, SPECTRAL_NORM), _is_sum
    ),
    "blocks": _names(BLOCK_OUTPUT, SPECTRAL_NORM),
}


class FrozenParams(NamedTuple):
    """Weights of the pretrained networks, which no update touches."""

    text: PyTree
    image: PyTree = None


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
    accumulation_steps: int = 1,
    remat: str = "none",
    mesh: Mesh | None = None,
    every_update: bool = False,
) -> Callable[[TrainState, Batch, FrozenParams, Array], tuple[TrainState, Metrics | list[Metrics]]]:
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
      accumulation_steps: Parts in which a micro-batch passes through the networks, for less memory
        and one more forward pass. Losses are those of the whole micro-batch, negatives included;
        only batch statistics are those of a part. Must divide the batch of each device.
      remat: What the backward pass recomputes, for less memory; a name in `REMAT_POLICIES`.
      mesh: The devices that the batch, and possibly the parameters, are split over, or None.
      every_update: Whether metrics come as a list, one entry for each micro-batch.

    Returns:
      ``train_step(state, batch, frozen, rng) -> (state, metrics)``, a pure function: its noise
      comes from `rng` folded with ``state.step``. Metrics, of the last micro-batch, are float32
      scalars named ``d/…`` and ``g/…``: each term with its loss and its in-batch retrieval
      accuracy, and the norm of each player's gradient, which is finite only if all of it is.

    Raises:
      ValueError: the pretrained-image term has a weight but no network.
    """
    if loss_weights.image_pretrained and image_features is None:
        raise ValueError("loss_weights.image_pretrained is not 0, but image_features is None")
    algorithm = _Algorithm(
        networks=_Networks(
            generator,
            discriminator,
            image_features,
            REMAT_POLICIES[remat],
            sharding.make_gather(mesh),
        ),
        generator_tx=generator_tx,
        discriminator_tx=discriminator_tx,
        encode_text=encode_text,
        objectives=Objectives(loss_weights, *make_contrastive_terms(mesh, contrastive_group_size)),
        ema_decay=ema_decay,
        flip=flip,
        accumulation_steps=accumulation_steps,
        every_update=every_update,
    )
    return algorithm.train_step


class _Example(NamedTuple):
    """One micro-batch, ready for the networks."""

    real: Float[Array, "b h w 3"]
    text: Text
    z: Float[Array, "b z"]


class _Networks(NamedTuple):
    """The networks in training mode."""

    generator: nn.Module
    discriminator: nn.Module
    image_features: ImageFeatures | None
    remat_policy: Callable | None
    gather: Callable[[PyTree], PyTree]

    def draw(self, params: PyTree, stats: PyTree, example: _Example) -> tuple[Array, PyTree]:
        """Fake images, and the running statistics moved on."""

        def apply(params: PyTree) -> tuple[Array, PyTree]:
            return self.generator.apply(
                {"params": self.gather(params), BATCH_STATS: stats},
                example.z,
                *example.text,
                train=True,
                mutable=[BATCH_STATS],
            )

        fake, moved = self._checkpoint(apply)(params)
        return fake, moved[BATCH_STATS]

    def judge(
        self, params: PyTree, spectral: PyTree, images: Array, text: Text
    ) -> tuple[DiscriminatorOutput, PyTree]:
        """What the discriminator says of images, and its power iterations moved on."""

        def apply(params: PyTree, images: Array) -> tuple[DiscriminatorOutput, PyTree]:
            return self.discriminator.apply(
                {"params": self.gather(params), SPECTRAL: spectral},
                images,
                text.sentence,
                train=True,
                mutable=[SPECTRAL],
            )

        output, moved = self._checkpoint(apply)(params, images)
        return output, moved[SPECTRAL]

    def look(self, params: PyTree, images: Array) -> Array | None:
        """The pretrained network's features, if it has a term."""
        return self.image_features(params, images) if self.image_features else None

    def _checkpoint(self, apply: Callable) -> Callable:
        if self.remat_policy is None:
            return apply
        return jax.checkpoint(apply, policy=self.remat_policy)


class _Algorithm(NamedTuple):
    """The step of `make_train_step`, in parts."""

    networks: _Networks
    generator_tx: optax.GradientTransformation
    discriminator_tx: optax.GradientTransformation
    encode_text: EncodeText
    objectives: Objectives
    ema_decay: float
    flip: bool
    accumulation_steps: int
    every_update: bool

    def train_step(
        self, state: TrainState, batch: Batch, frozen: FrozenParams, rng: Array
    ) -> tuple[TrainState, Metrics | list[Metrics]]:
        """One generator update; see `make_train_step`."""
        rng = jax.random.fold_in(rng, state.step)
        *for_discriminator, for_both = (
            self._prepare(jax.tree.map(lambda x, i=i: x[i], batch), frozen, rng, i)
            for i in range(batch.image.shape[0])
        )
        every = []
        for example in for_discriminator:
            state, metrics = self._update_discriminator(state, example)
            every.append(metrics)
        state, metrics = self._update_both(state, for_both, frozen)
        return state, [*every, metrics] if self.every_update else metrics

    def _prepare(
        self, micro_batch: Batch, frozen: FrozenParams, rng: Array, index: int
    ) -> _Example:
        z_rng, flip_rng = jax.random.split(jax.random.fold_in(rng, index))
        real = images.from_uint8(micro_batch.image)
        if self.flip:
            real = images.random_flip(real, flip_rng)
        text = Text(*self.encode_text(frozen.text, micro_batch.tokens))
        z = jax.random.normal(z_rng, (real.shape[0], self.networks.generator.z_dim))
        return _Example(real, text, z)

    def _update_discriminator(
        self, state: TrainState, example: _Example
    ) -> tuple[TrainState, Metrics]:
        judge = self.networks.judge

        def linearize(example: _Example):
            # The generator's running statistics move with its own updates only.
            fake, _ = self.networks.draw(state.generator, state.generator_stats, example)

            def judge_both(params: PyTree):
                pairs, texts = _pair(example.real, fake), _pair(example.text, example.text)
                outputs, spectral = judge(params, state.spectral, pairs, texts)
                return _unpair(outputs), spectral

            outputs, pull_back, spectral = jax.vjp(judge_both, state.discriminator, has_aux=True)
            return outputs, lambda cotangent: pull_back(cotangent)[0], spectral

        outputs, pull_back, spectral = in_parts(linearize, example, self.accumulation_steps)
        cotangent, metrics = jax.grad(
            lambda outputs: self.objectives.d_loss(*outputs, example.text), has_aux=True
        )(outputs)
        grads = pull_back(cotangent)
        params, optimizer = _descend(
            self.discriminator_tx, grads, state.discriminator_optimizer, state.discriminator
        )
        state = state.replace(
            discriminator=params,
            discriminator_optimizer=optimizer,
            spectral=jax.tree.map(lambda x: x[0], spectral),
        )
        return state, metrics | {"d/grad_norm": optax.tree.norm(grads)}

    def _update_both(
        self, state: TrainState, example: _Example, frozen: FrozenParams
    ) -> tuple[TrainState, Metrics]:
        # One forward pass for both players: each loss is differentiated down to the outputs of
        # the networks, and only its own cotangent is pulled back through them.
        def linearize(example: _Example):
            return self._linearize_both(state, example, frozen)

        (real, fake), pull_back, (stats, spectral) = in_parts(
            linearize, example, self.accumulation_steps
        )
        d_cotangents, d_metrics = jax.grad(self.objectives.d_loss, argnums=(0, 1), has_aux=True)(
            real.output, fake.output, example.text
        )
        g_cotangent, g_metrics = jax.grad(self.objectives.g_loss, has_aux=True)(
            fake, real, example.text
        )
        d_grads, g_grads = pull_back((d_cotangents, g_cotangent))

        d_params, d_optimizer = _descend(
            self.discriminator_tx, d_grads, state.discriminator_optimizer, state.discriminator
        )
        g_params, g_optimizer = _descend(
            self.generator_tx, g_grads, state.generator_optimizer, state.generator
        )
        # Every part moved the statistics on from the same start, and the spectral norms alike.
        stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), stats)
        new = {"params": g_params, BATCH_STATS: stats}
        state = TrainState(
            step=state.step + 1,
            generator=g_params,
            generator_stats=stats,
            discriminator=d_params,
            spectral=jax.tree.map(lambda x: x[0], spectral),
            ema=optax.incremental_update(new, state.ema, 1.0 - self.ema_decay),
            generator_optimizer=g_optimizer,
            discriminator_optimizer=d_optimizer,
        )
        norms = {
            "d/grad_norm": optax.tree.norm(d_grads),
            "g/grad_norm": optax.tree.norm(g_grads),
        }
        return state, d_metrics | g_metrics | norms

    def _linearize_both(self, state: TrainState, example: _Example, frozen: FrozenParams):
        """``(real, fake), pull_back, (stats, spectral)`` of a part of the batch.

        ``pull_back`` takes the discriminator's loss to the discriminator and the generator's to
        the generator. Reals and fakes are judged in two calls, so that the generator's gradient
        passes through the fakes alone.
        """
        networks, text = self.networks, example.text
        fake, to_generator, stats = jax.vjp(
            lambda params: networks.draw(params, state.generator_stats, example),
            state.generator,
            has_aux=True,
        )
        real_output, from_real, spectral = jax.vjp(
            lambda params: networks.judge(params, state.spectral, example.real, text),
            state.discriminator,
            has_aux=True,
        )
        fake_output, from_fake, _ = jax.vjp(
            lambda params, fake: networks.judge(params, state.spectral, fake, text),
            state.discriminator,
            fake,
            has_aux=True,
        )
        features, from_features = jax.vjp(lambda fake: networks.look(frozen.image, fake), fake)

        def pull_back(cotangents):
            (d_real, d_fake), g_fake = cotangents
            d_grads = jax.tree.map(jnp.add, from_real(d_real)[0], from_fake(d_fake)[0])
            towards_fake = from_fake(g_fake.output)[1] + from_features(g_fake.features)[0]
            return d_grads, to_generator(towards_fake)[0]

        real = NetworkOutputs(real_output, networks.look(frozen.image, example.real))
        return (real, NetworkOutputs(fake_output, features)), pull_back, (stats, spectral)


def _pair(reals: PyTree, fakes: PyTree) -> PyTree:
    """Both in one batch, in turns: where a batch is split over devices, nothing has to move."""
    return jax.tree.map(
        lambda x, y: jnp.stack([x, y], axis=1).reshape(-1, *x.shape[1:]), reals, fakes
    )


def _unpair(outputs: PyTree) -> tuple[PyTree, PyTree]:
    return tuple(jax.tree.map(lambda x, i=i: x[i::2], outputs) for i in (0, 1))


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
