"""From a configuration to the objects of a run: networks, optimizers, text, steps.

The one place where `ml_collections` meets the library; what is built here takes typed arguments.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, UInt32
from ml_collections import ConfigDict

from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.errors import UserError
from xmc_jax.frozen.image_features import (
    ImageFeatures,
    describe_image_features,
    load_image_features,
)
from xmc_jax.frozen.text_encoder import TextEncoder, describe_text_encoder, load_text_encoder
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.objectives import LossWeights
from xmc_jax.parallel import sharding
from xmc_jax.run.config_checks import check_accumulation, check_config
from xmc_jax.train_state import TrainState, create_train_state, init_generator
from xmc_jax.train_step import FrozenParams, make_train_step
from xmc_jax.types import Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of one configured experiment; made by `create_experiment`.

    Attributes:
      config: The resolved configuration.
      mesh: The devices of the run.
      generator: The `Generator`.
      discriminator: The `Discriminator`.
      text_encoder: The frozen text encoder.
      tokenizer: Captions to its token ids; None in a described experiment.
      image_features: The frozen network of the pretrained-image term, or None.
      frozen: The frozen weights, on the devices; their shapes in a described experiment.
    """

    config: ConfigDict
    mesh: Mesh
    generator: nn.Module
    discriminator: nn.Module
    text_encoder: TextEncoder
    tokenizer: Tokenizer | None
    image_features: ImageFeatures | None
    frozen: FrozenParams

    def init_state(self) -> TrainState:
        """The state before the first step, on the devices; a pure function of the config."""
        # Runs once. For CPUs LLVM takes half a minute to optimise it, and a few seconds not to.
        is_cpu = self.mesh.devices.flat[0].platform == "cpu"
        init = jax.jit(
            self._create_state,
            out_shardings=self._state_shardings(),
            compiler_options={"xla_backend_optimization_level": 0} if is_cpu else None,
        )
        return init(np.uint32(self.config.seed))

    def make_rng(self) -> Array:
        """The key of the run's noise, on all devices."""
        # Made on all at once: a key of one process cannot be sent to another's.
        make_key = jax.jit(jax.random.key, out_shardings=sharding.replicated(self.mesh))
        return make_key(self.config.seed + 1)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state, for restoring without computing one."""
        shapes = jax.eval_shape(self._create_state, np.uint32(0))
        return jax.tree.map(_abstract, shapes, self._state_shardings())

    def abstract_ema(self) -> PyTree:
        """The same of the generator's moving averages, whole on every device, to draw with."""
        init = functools.partial(
            init_generator, generator=self.generator, text_width=self.text_encoder.width
        )
        shapes, whole = jax.eval_shape(init, jax.random.key(0)), sharding.replicated(self.mesh)
        return jax.tree.map(lambda x: _abstract(x, whole), shapes)

    def abstract_step_arguments(
        self,
    ) -> tuple[TrainState, Batch, FrozenParams, jax.ShapeDtypeStruct]:
        """The same of all that a training step takes, for compiling one without running it."""
        config, whole = self.config, sharding.replicated(self.mesh)
        split = sharding.batch_sharding(self.mesh, batch_axis=1)
        leading, side = (config.d_steps, config.batch_size), config.model.resolution
        image = jax.ShapeDtypeStruct((*leading, side, side, 3), np.uint8, sharding=split)
        tokens = jax.ShapeDtypeStruct((*leading, config.text.num_tokens), np.int32, sharding=split)
        frozen, rng = self.frozen, jax.eval_shape(lambda: jax.random.key(0))
        frozen, rng = jax.tree.map(lambda x: _abstract(x, whole), (frozen, rng))
        return self.abstract_state(), Batch(image, tokens), frozen, rng

    @functools.cached_property
    def _create_state(self) -> Callable[[UInt32[Array, ""]], TrainState]:
        """One object, and no method: JAX traces it once, whoever asks for shapes or programs."""
        return functools.partial(
            _create_state,
            generator=self.generator,
            discriminator=self.discriminator,
            generator_tx=self._optimizer("generator_learning_rate"),
            discriminator_tx=self._optimizer("discriminator_learning_rate"),
            text_width=self.text_encoder.width,
        )

    def _state_shardings(self) -> TrainState:
        return jax.tree.map(
            lambda x: sharding.parameter_sharding(self.mesh, x.shape),
            jax.eval_shape(self._create_state, np.uint32(0)),
        )

    def jit_train_step(self, *, every_update: bool = False):
        """The compiled training step ``(state, batch, frozen, rng) -> (state, metrics)``.

        The state is donated, and lives where `sharding.parameter_sharding` says; the batch is split
        over all devices, and the rest is whole on each.

        Args:
          every_update: See `make_train_step`.
        """
        config = self.config
        step = make_train_step(
            generator=self.generator,
            discriminator=self.discriminator,
            generator_tx=self._optimizer("generator_learning_rate"),
            discriminator_tx=self._optimizer("discriminator_learning_rate"),
            encode_text=self.text_encoder.apply,
            image_features=self.image_features and self.image_features.apply,
            loss_weights=LossWeights(
                sentence=config.loss.sentence_weight,
                word=config.loss.word_weight,
                image_d=config.loss.image_d_weight,
                image_pretrained=config.loss.image_pretrained_weight,
            ),
            ema_decay=config.optimizer.ema_decay,
            flip=config.data.flip,
            contrastive_group_size=config.loss.contrastive_group_size,
            accumulation_steps=config.accumulation_steps,
            remat=config.remat,
            mesh=self.mesh,
            every_update=every_update,
        )
        whole, state = sharding.replicated(self.mesh), self._state_shardings()
        split = sharding.batch_sharding(self.mesh, batch_axis=1)
        return jax.jit(
            step,
            in_shardings=(state, split, whole, whole),
            out_shardings=(state, whole),
            donate_argnums=0,
        )

    def _optimizer(self, learning_rate: str) -> optax.GradientTransformation:
        section = self.config.optimizer
        return optax.adam(section[learning_rate], b1=section.beta1, b2=section.beta2)


def create_experiment(config: ConfigDict, *, training: bool = True, fsdp: int = 1) -> Experiment:
    """Builds the parts of an experiment; loads the frozen networks.

    Args:
      config: A resolved configuration; see `configs/shapes_32.py` for every field.
      training: Whether losses will be computed. Sampling needs no image features.
      fsdp: See `sharding.make_mesh`.

    Raises:
      UserError: a field is missing or has a value that cannot work, or weights are missing.
    """
    check_config(config)
    mesh = sharding.make_mesh(fsdp=fsdp)
    if training:
        _check_shares(config, mesh)
    generator, discriminator = _create_networks(config)
    text_encoder = load_text_encoder(config.text.encoder)
    image_features = _image_features(config, load_image_features) if training else None
    return Experiment(
        config=config,
        mesh=mesh,
        generator=generator,
        discriminator=discriminator,
        text_encoder=text_encoder,
        tokenizer=Tokenizer(
            text_encoder.vocabulary_file, config.text.num_tokens, text_encoder.lowercase
        ),
        image_features=image_features,
        frozen=sharding.put(
            _frozen_params(text_encoder, image_features), sharding.replicated(mesh)
        ),
    )


def describe_experiment(
    config: ConfigDict, devices: Sequence[jax.Device], *, fsdp: int = 1
) -> Experiment:
    """An experiment for devices that need not be there, without frozen weights: to be compiled.

    Args:
      config: A resolved configuration.
      devices: All of the mesh, attached or described by a compiler.
      fsdp: See `sharding.make_mesh`.

    Raises:
      UserError: a field is missing or has a value that cannot work.
    """
    check_config(config)
    mesh = sharding.make_mesh(devices, fsdp=fsdp)
    _check_shares(config, mesh)
    generator, discriminator = _create_networks(config)
    text_encoder = describe_text_encoder(config.text.encoder)
    image_features = _image_features(config, describe_image_features)
    return Experiment(
        config=config,
        mesh=mesh,
        generator=generator,
        discriminator=discriminator,
        text_encoder=text_encoder,
        tokenizer=None,
        image_features=image_features,
        frozen=_frozen_params(text_encoder, image_features),
    )


def _create_state(seed: UInt32[Array, ""], **parts: Any) -> TrainState:
    return create_train_state(jax.random.key(seed), **parts)


def _abstract(x: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _check_shares(config: ConfigDict, mesh: Mesh) -> None:
    sharding.check_batch_size(config.batch_size, mesh)
    check_accumulation(config, mesh)


def _create_networks(config: ConfigDict) -> tuple[Generator, Discriminator]:
    dtype = jnp.dtype(config.model.dtype)
    try:
        generator = Generator(
            resolution=config.model.resolution,
            width=config.model.generator_width,
            z_dim=config.model.z_dim,
            modulation=config.model.modulation,
            bn_group_size=config.model.bn_group_size,
            dtype=dtype,
        )
        discriminator = Discriminator(
            resolution=config.model.resolution,
            width=config.model.discriminator_width,
            region_resolution=config.model.region_resolution,
            contrastive_head=config.model.contrastive_head,
            dtype=dtype,
        )
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error
    return generator, discriminator


def _image_features(config: ConfigDict, get: Callable[..., ImageFeatures]) -> ImageFeatures | None:
    loss = config.loss
    if not loss.image_pretrained_weight:
        return None
    return get(
        loss.image_pretrained_network,
        loss.image_pretrained_weights,
        loss.image_pretrained_resolution,
    )


def _frozen_params(text_encoder: TextEncoder, image_features: ImageFeatures | None) -> FrozenParams:
    return FrozenParams(
        text=text_encoder.params, image=image_features.params if image_features else None
    )
