"""The training step as a pure function (paper, section 4).

Nothing here knows of files, clocks or flags. Frozen networks are passed as functions whose weights
are arguments, so that no compiled program contains them as constants.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from xmc_jax import images, losses
from xmc_jax.accumulation import in_parts
from xmc_jax.models.augmentation import Augmentation, Changes
from xmc_jax.models.layers import BATCH_STATS
from xmc_jax.models.networks import Networks, pair, unpair
from xmc_jax.models.remat import REMAT_POLICIES
from xmc_jax.objectives import LossWeights, NetworkOutputs, Objectives, Text, make_contrastive_terms
from xmc_jax.parallel import sharding
from xmc_jax.train_state import TrainState
from xmc_jax.types import Batch, EncodeText, ExtractFeatures, Metrics, PyTree, Schedule

VARIETY_EVERY = 4  # Items: the candidates of every other one would cost a fifth of a step on CPUs.


class FrozenParams(NamedTuple):
    """Weights of the pretrained networks, which are never updated."""

    text: PyTree
    image: PyTree = None


def make_train_step(
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    encode_text: EncodeText,
    image_features: ExtractFeatures | None = None,
    loss_weights: LossWeights,
    variety_candidates: int = 8,
    r1_weight: float = 0.0,
    r1_every_steps: int = 1,
    ema_decay: float,
    flip: bool,
    clip_norm: float = 0.0,
    rate_factor: Schedule | None = None,
    instance_noise: Schedule | None = None,
    augmentation: Augmentation | None = None,
    contrastive_group_size: int = 0,
    accumulation_steps: int = 1,
    remat: str = "none",
    mesh: Mesh | None = None,
    every_update: bool = False,
) -> Callable[[TrainState, Batch, FrozenParams, Array], tuple[TrainState, Metrics | list[Metrics]]]:
    """Builds the training step.

    A step takes as many micro-batches as the batch has along its first axis. All but the last
    update only the discriminator. On the last, one forward pass of both networks gives the losses
    of both players, which are updated simultaneously from gradients at the same parameters.

    Args:
      generator: A `Generator`.
      discriminator: A `Discriminator`.
      generator_tx: Optimizer of the generator.
      discriminator_tx: Optimizer of the discriminator.
      encode_text: ``(params, tokens) -> (words, sentence, word_mask)``.
      image_features: ``(params, images in [-1, 1]) -> features``; required if the weight of its
        term is not 0.
      loss_weights: Weights of the terms beside the hinge losses.
      variety_candidates: With a weight of variety, every fourth item gets that of as many noises
        whose image is the nearest to its real image; the term is the remaining distance,
        ``mean(|fake - real|)``, 0 for other items. So noise learns what captions leave open (best
        of many, Bhattacharyya et al. 2018; conditional IMLE, Li et al. 2020).
      r1_weight: Weight of R1 (Mescheder et al. 2018), ``r1_weight / 2 * mean(||d logit / d x||^2)``
        over real images x, as the discriminator sees them; 0: not computed.
      r1_every_steps: The discriminator's updates of every such step have R1, times this number,
        and the others do not pay for it.
      ema_decay: Decay of the generator's moving averages per generator update, 0..1.
      flip: Whether to mirror real images at random.
      clip_norm: Longest gradient of each player, by the norm of all its parameters together; a
        longer one is shortened to it. 0: none is.
      rate_factor: What the updates of both players are multiplied by, for rates that change.
      instance_noise: Standard deviation of the Gaussian noise that is added to real and generated
        images before the discriminator sees them (Sønderby et al. 2017). It hides faults of a few
        grey levels, by which the discriminator would tell all generated images from real ones
        before they have shapes. Terms of the pretrained network see no noise.
      augmentation: Random changes of real and generated images before the discriminator sees them.
        In one update an image and the generated image of its caption change alike, so all terms
        compare what belongs together. The pretrained network, which cannot learn images by heart,
        sees images as they are.
      contrastive_group_size: Items that share negatives, see `make_contrastive_terms`.
      accumulation_steps: Number of parts in which a micro-batch passes through the networks; more
        parts need less memory and one more forward pass. Losses are those of the whole micro-batch,
        negatives included; batch statistics are those of one part. Must divide the batch of each
        device.
      remat: Name in `REMAT_POLICIES`: what the backward pass recomputes to save memory.
      mesh: The devices over which the batch, and possibly the parameters, are split, or None.
      every_update: Whether to return a list with the metrics of every micro-batch.

    Returns:
      ``train_step(state, batch, frozen, rng) -> (state, metrics)``, a pure function whose noise
      comes from `rng` folded with ``state.step``. Metrics are those of the last micro-batch,
      float32 scalars named ``d/…`` and ``g/…``: the loss and the in-batch retrieval accuracy of
      each term, and the norm of each player's gradient before it is clipped, which is finite only
      if the gradient is. With an `r1_weight`, ``d/r1`` is R1 in steps that compute it, and 0 in
      the others; the norm contains R1, ``d/loss`` does not.

    Raises:
      ValueError: The term of the pretrained network has a weight, but there is no network.
    """
    if loss_weights.image_pretrained and image_features is None:
        raise ValueError("loss_weights.image_pretrained is not 0, but image_features is None")
    policy, gather = REMAT_POLICIES[remat], sharding.make_gather(mesh)
    algorithm = _Algorithm(
        networks=Networks(
            generator, discriminator, image_features, augmentation or Augmentation(), policy, gather
        ),
        generator_tx=generator_tx,
        discriminator_tx=discriminator_tx,
        encode_text=encode_text,
        objectives=Objectives(loss_weights, *make_contrastive_terms(mesh, contrastive_group_size)),
        variety_candidates=variety_candidates,
        r1_weight=r1_weight,
        r1_every_steps=r1_every_steps,
        ema_decay=ema_decay,
        flip=flip,
        clip_norm=clip_norm,
        rate_factor=rate_factor,
        instance_noise=instance_noise,
        accumulation_steps=accumulation_steps,
        every_update=every_update,
    )
    return algorithm.train_step


class _Example(NamedTuple):
    """One micro-batch as the networks take it."""

    real: Float[Array, "b h w 3"]
    text: Text
    z: Float[Array, "b z"]
    # What is added to real and to generated images for the discriminator, or None.
    noise: tuple[Float[Array, "b h w 3"], Float[Array, "b h w 3"]] | tuple[None, None]
    changes: Changes
    is_chosen: Bool[Array, " b"] | None = None  # Where variety chose the noise.


class _Algorithm(NamedTuple):
    """The parts of the step that `make_train_step` builds."""

    networks: Networks
    generator_tx: optax.GradientTransformation
    discriminator_tx: optax.GradientTransformation
    encode_text: EncodeText
    objectives: Objectives
    variety_candidates: int
    r1_weight: float
    r1_every_steps: int
    ema_decay: float
    flip: bool
    clip_norm: float
    rate_factor: Schedule | None
    instance_noise: Schedule | None
    accumulation_steps: int
    every_update: bool

    def train_step(
        self, state: TrainState, batch: Batch, frozen: FrozenParams, rng: Array
    ) -> tuple[TrainState, Metrics | list[Metrics]]:
        """One generator update; see `make_train_step`."""
        rng = jax.random.fold_in(rng, state.step)
        *for_discriminator, for_both = (
            self._prepare(jax.tree.map(lambda x, i=i: x[i], batch), frozen, rng, state.step, i)
            for i in range(batch.image.shape[0])
        )
        all_metrics = []
        for example in for_discriminator:
            state, metrics = self._update_discriminator(state, example)
            all_metrics.append(metrics)
        rng = jax.random.fold_in(rng, batch.image.shape[0])
        for_both, variety = self._choose_noise(state, for_both, rng)
        state, metrics = self._update_both(state, for_both, frozen)
        all_metrics.append(metrics | variety)
        return state, all_metrics if self.every_update else all_metrics[-1]

    def _prepare(
        self, micro_batch: Batch, frozen: FrozenParams, rng: Array, step: Array, index: int
    ) -> _Example:
        z_rng, flip_rng = jax.random.split(jax.random.fold_in(rng, index))
        real = images.from_uint8(micro_batch.image)
        if self.flip:
            real = images.random_flip(real, flip_rng)
        text = Text(*self.encode_text(frozen.text, micro_batch.tokens))
        z = jax.random.normal(z_rng, (real.shape[0], self.networks.generator.z_dim))
        noise, changes, augmentation = (None, None), Changes(), self.networks.augmentation
        if self.instance_noise is not None:
            shape = (2, *real.shape)
            drawn = jax.random.normal(jax.random.fold_in(z_rng, 1), shape)
            noise = tuple(self.instance_noise(step) * drawn)
        if any(augmentation):
            changes = augmentation.draw(jax.random.fold_in(z_rng, 2), *real.shape[:2])
        return _Example(real, text, z, noise, changes)

    def _choose_noise(
        self, state: TrainState, example: _Example, rng: Array
    ) -> tuple[_Example, Metrics]:
        """Noise for the term of variety, and how different images of a caption are."""
        if not self.objectives.weights.variety:
            return example, {}
        real, text = jax.tree.map(lambda x: x[::VARIETY_EVERY], (example.real, example.text))
        z = jax.random.normal(rng, (len(real), self.variety_candidates, example.z.shape[1]))
        fakes = self.networks.generate_several(state.generator, state.generator_stats, z, text)
        chosen = jnp.take_along_axis(z, losses.nearest(fakes, real)[:, None, None], axis=1)[:, 0]
        is_chosen = jnp.arange(len(example.z)) % VARIETY_EVERY == 0
        z = example.z.at[::VARIETY_EVERY].set(chosen)
        distances = losses.mean_distances(fakes[:, 0], fakes[:, 1])
        return example._replace(z=z, is_chosen=is_chosen), {"g/diversity": jnp.mean(distances)}

    def _update_discriminator(
        self, state: TrainState, example: _Example
    ) -> tuple[TrainState, Metrics]:
        networks = self.networks

        def linearize(example: _Example):
            # Only the generator's own updates change its running statistics.
            fake, _ = networks.generate(
                state.generator, state.generator_stats, example.z, example.text
            )

            def discriminate_both(params: PyTree):
                pairs, texts = pair(example.real, fake), pair(example.text, example.text)
                changes, noise = pair(example.changes, example.changes), pair(*example.noise)
                seen = networks.change(pairs, changes, noise)
                outputs, spectral = networks.discriminate(
                    params, state.spectral, seen, texts.sentence
                )
                return unpair(outputs), spectral

            outputs, pull_back, spectral = jax.vjp(
                discriminate_both, state.discriminator, has_aux=True
            )
            return outputs, lambda cotangent: pull_back(cotangent)[0], spectral

        outputs, pull_back, spectral = in_parts(linearize, example, self.accumulation_steps)
        cotangent, metrics = jax.grad(
            lambda outputs: self.objectives.d_loss(*outputs, example.text), has_aux=True
        )(outputs)
        grads = pull_back(cotangent)
        return self._descend_discriminator(state, example, grads, spectral, metrics)

    def _descend_discriminator(
        self,
        state: TrainState,
        example: _Example,
        grads: PyTree,
        spectral: PyTree,
        metrics: Metrics,
    ) -> tuple[TrainState, Metrics]:
        if self.r1_weight:
            r1, grads = self._add_r1_if_due(state, example, grads)
            metrics = metrics | {"d/r1": r1}
        state = self._descend(state, "discriminator", grads)
        # All parts of the batch update the same vectors, and find the same.
        state = state.replace(spectral=jax.tree.map(lambda x: x[0], spectral))
        return state, metrics | {"d/grad_norm": optax.tree.norm(grads)}

    def _add_r1_if_due(
        self, state: TrainState, example: _Example, grads: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        add_r1 = functools.partial(self._add_r1, state, example)
        if self.r1_every_steps == 1:  # No condition: XLA on CPUs is slow for convolutions in them.
            return add_r1(grads)
        # Of N steps the last one pays, which is a logged one if N divides the log's period.
        is_due = (state.step + 1) % self.r1_every_steps == 0
        return jax.lax.cond(is_due, add_r1, lambda grads: (jnp.zeros(()), grads), grads)

    def _add_r1(
        self, state: TrainState, example: _Example, grads: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        """R1, and the discriminator's gradients with those of R1 added."""
        networks = self.networks

        def linearize(example: _Example):
            seen = networks.change(example.real, example.changes, example.noise[0])

            def score(params: PyTree, images: Array):
                sentence = example.text.sentence
                return networks.discriminate(params, state.spectral, images, sentence)[0].logits

            squared_norms, pull_back = jax.vjp(
                lambda params: losses.squared_gradient_norms(
                    functools.partial(score, params), seen
                ),
                state.discriminator,
            )
            return squared_norms, lambda cotangent: pull_back(cotangent)[0], ()

        squared_norms, pull_back, _ = in_parts(linearize, example, self.accumulation_steps)
        mean, cotangent = jax.value_and_grad(jnp.mean)(squared_norms)
        added = pull_back(self.r1_every_steps * self.r1_weight / 2 * cotangent)
        return self.r1_weight / 2 * mean, jax.tree.map(jnp.add, grads, added)

    def _descend(self, state: TrainState, player: str, grads: PyTree) -> TrainState:
        """An update of the ``"generator"`` or the ``"discriminator"``."""
        tx, optimizer = getattr(self, f"{player}_tx"), f"{player}_optimizer"
        params, optimizer_state = getattr(state, player), getattr(state, optimizer)
        if self.clip_norm:
            # Not as a part of the optimizer, whose state would then have another structure.
            grads, _ = optax.clip_by_global_norm(self.clip_norm).update(grads, optax.EmptyState())
        updates, optimizer_state = tx.update(grads, optimizer_state, params)
        if self.rate_factor is not None:
            factor = self.rate_factor(state.step)
            updates = jax.tree.map(lambda x: factor * x, updates)
        params = optax.apply_updates(params, updates)
        return state.replace(**{player: params, optimizer: optimizer_state})

    def _update_both(
        self, state: TrainState, example: _Example, frozen: FrozenParams
    ) -> tuple[TrainState, Metrics]:
        # One forward pass serves both players: each loss is differentiated down to the outputs of
        # the networks, and only its own cotangent is pulled back through them.
        def linearize(example: _Example):
            return self._linearize_both(state, example, frozen)

        (real, fake), pull_back, (stats, spectral) = in_parts(
            linearize, example, self.accumulation_steps
        )
        d_cotangents, d_metrics = jax.grad(self.objectives.d_loss, argnums=(0, 1), has_aux=True)(
            real.discriminator, fake.discriminator, example.text
        )
        g_cotangent, g_metrics = jax.grad(self.objectives.g_loss, has_aux=True)(
            fake, real, example.text
        )
        d_grads, g_grads = pull_back((d_cotangents, g_cotangent))

        state, d_metrics = self._descend_discriminator(state, example, d_grads, spectral, d_metrics)
        state = self._descend(state, "generator", g_grads)
        # Every part of the batch updates the running statistics from the same start.
        stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), stats)
        new = {"params": state.generator, BATCH_STATS: stats}
        state = state.replace(
            step=state.step + 1,
            generator_stats=stats,
            ema=optax.incremental_update(new, state.ema, 1.0 - self.ema_decay),
        )
        return state, d_metrics | g_metrics | {"g/grad_norm": optax.tree.norm(g_grads)}

    def _linearize_both(self, state: TrainState, example: _Example, frozen: FrozenParams):
        """``(real, fake), pull_back, (stats, spectral)`` of a part of the batch.

        ``pull_back`` takes the discriminator's loss to the discriminator, and the generator's loss
        to the generator. The discriminator sees real and fake images in two calls, so that the
        generator's gradient passes only through the fake ones.
        """
        networks, text = self.networks, example.text

        def discriminate(params: PyTree, images: Array, noise: Array | None):
            seen = networks.change(images, example.changes, noise)
            return networks.discriminate(params, state.spectral, seen, text.sentence)

        def generate(params: PyTree):
            fake, stats = networks.generate(params, state.generator_stats, example.z, text)
            if example.is_chosen is None:
                return (fake, None), stats
            return (fake, example.is_chosen * losses.mean_distances(fake, example.real)), stats

        (fake, distances), to_generator, stats = jax.vjp(generate, state.generator, has_aux=True)
        real_output, from_real, spectral = jax.vjp(
            lambda params: discriminate(params, example.real, example.noise[0]),
            state.discriminator,
            has_aux=True,
        )
        fake_output, from_fake, _ = jax.vjp(
            lambda params, fake: discriminate(params, fake, example.noise[1]),
            state.discriminator,
            fake,
            has_aux=True,
        )
        features, from_features = jax.vjp(
            lambda fake: networks.image_features(frozen.image, fake), fake
        )

        def pull_back(cotangents):
            (d_real, d_fake), g_fake = cotangents
            d_grads = jax.tree.map(jnp.add, from_real(d_real)[0], from_fake(d_fake)[0])
            through_discriminator = from_fake(g_fake.discriminator)[1]
            g_image = through_discriminator + from_features(g_fake.features)[0]
            return d_grads, to_generator((g_image, g_fake.distances))[0]

        real = NetworkOutputs(real_output, networks.image_features(frozen.image, example.real))
        fakes = NetworkOutputs(fake_output, features, distances)
        return (real, fakes), pull_back, (stats, spectral)
