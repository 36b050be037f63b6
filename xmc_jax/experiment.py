"""From a config to the objects of a run: networks, optimizers, frozen networks, compiled steps.

Networks, losses and steps take typed arguments; `ml_collections` ends here for them.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, UInt32
from ml_collections import ConfigDict

from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.errors import UserError
from xmc_jax.frozen import text_projection
from xmc_jax.frozen.image_features import (
    ImageFeatures,
    describe_image_features,
    load_image_features,
)
from xmc_jax.frozen.text_encoder import TextEncoder, describe_text_encoder, load_text_encoder
from xmc_jax.models.augmentation import Augmentation
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.objectives import LossWeights
from xmc_jax.parallel import sharding
from xmc_jax.run.config_checks import check_accumulation, check_model, check_training
from xmc_jax.run.folder import text_projection_path
from xmc_jax.train_state import (
    TrainState,
    create_train_state,
    init_generator,
    make_optimizer,
    make_rate_factor,
)
from xmc_jax.train_step import FrozenParams, make_train_step
from xmc_jax.types import Batch, EncodedText, PyTree, Schedule


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of one configured experiment; made by `create_experiment`."""

    config: ConfigDict  # Resolved.
    mesh: Mesh
    generator: nn.Module
    discriminator: nn.Module
    text_encoder: TextEncoder
    tokenizer: Tokenizer | None  # None for devices that are not attached.
    image_features: ImageFeatures | None  # None without the pretrained-image term.
    frozen: FrozenParams  # On the devices; shapes, where nothing is known but these.

    def with_projection(self, folder: epath.PathLike) -> "Experiment":
        """The same with the projection of the text that the folder of a run or of a model has.

        Raises:
          UserError: the projection is missing, damaged, or of another width.
        """
        path = text_projection_path(folder)
        projection = text_projection.read(path, self.config.text.projection)
        encoder = text_projection.replace(self.text_encoder, projection)
        frozen = self.frozen._replace(text=_put_weights(encoder.params, self.mesh))
        return dataclasses.replace(self, text_encoder=encoder, frozen=frozen)

    def init_state(self) -> TrainState:
        """The state before the first step, on the devices; a pure function of the config."""
        init = jax.jit(
            self._create_state,
            out_shardings=self._state_shardings(),
            # It runs once. LLVM would take half a minute to optimise it, otherwise seconds.
            compiler_options=self._on_cpus({"xla_backend_optimization_level": 0}),
        )
        return init(np.uint32(self.config.seed))

    def make_rng(self) -> Array:
        """The key of the run's noise, on all devices."""
        # Created on all devices at once: a key of one process cannot be sent to another's.
        make_key = jax.jit(jax.random.key, out_shardings=sharding.replicated(self.mesh))
        return make_key(self.config.seed + 1)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state, for restoring without computing one."""
        shapes = jax.eval_shape(self._create_state, np.uint32(0))
        return jax.tree.map(_abstract, shapes, self._state_shardings())

    def abstract_ema(self) -> PyTree:
        """The same of the generator's averages, whole on every device, as sampling uses them."""
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
        if config.data.cached_captions:
            tokens = self._abstract_text(tokens)
        frozen, rng = self.frozen, jax.eval_shape(lambda: jax.random.key(0))
        frozen, rng = jax.tree.map(lambda x: _abstract(x, whole), (frozen, rng))
        return self.abstract_state(), Batch(image, tokens), frozen, rng

    def _abstract_text(self, tokens: jax.ShapeDtypeStruct) -> EncodedText:
        """What a `CaptionCache` makes of tokens."""
        *leading, num_tokens = tokens.shape
        width, split = self.text_encoder.width, tokens.sharding
        words = jax.ShapeDtypeStruct((*leading, num_tokens, width), np.float32, sharding=split)
        sentence = jax.ShapeDtypeStruct((*leading, width), np.float32, sharding=split)
        return words, sentence, jax.ShapeDtypeStruct(tokens.shape, bool, sharding=split)

    @functools.cached_property
    def _create_state(self) -> Callable[[UInt32[Array, ""]], TrainState]:
        """One function object, so that JAX traces it once for shapes and programs."""
        players, text_width = self._players(), self.text_encoder.width

        def create_state(seed: UInt32[Array, ""]) -> TrainState:
            return create_train_state(jax.random.key(seed), **players, text_width=text_width)

        return create_state

    def _state_shardings(self) -> TrainState:
        return jax.tree.map(
            lambda x: sharding.parameter_sharding(self.mesh, x.shape),
            jax.eval_shape(self._create_state, np.uint32(0)),
        )

    def jit_train_step(self, *, every_update: bool = False):
        """The compiled training step ``(state, batch, frozen, rng) -> (state, metrics)``.

        The state is donated, and lives where `sharding.parameter_sharding` says; the batch is split
        over all devices, and the rest is whole on each. `every_update` as in `make_train_step`.
        """
        config = self.config
        step = make_train_step(
            **self._players(),
            encode_text=_encoded if config.data.cached_captions else self.text_encoder.apply,
            image_features=self.image_features and self.image_features.apply,
            loss_weights=LossWeights(
                **{term: config.loss[f"{term}_weight"] for term in LossWeights._fields}
            ),
            variety_candidates=config.loss.variety_candidates,
            r1_weight=config.loss.r1_weight,
            r1_every_steps=config.loss.r1_every_steps,
            ema_decay=config.optimizer.ema_decay,
            clip_norm=config.optimizer.clip_norm,
            rate_factor=make_rate_factor(
                config.num_steps, config.optimizer.warmup_until, config.optimizer.decay_from
            ),
            instance_noise=_instance_noise(config),
            augmentation=Augmentation(**config.augment),
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
            # Two seconds less to wait for the first step on two cores, and as fast.
            compiler_options=self._on_cpus({"xla_backend_optimization_level": 1}),
        )

    def _on_cpus(self, options: dict[str, Any]) -> dict[str, Any] | None:
        """Options of the compiler for CPUs, without those that the user's XLA_FLAGS have."""
        if self.mesh.devices.flat[0].platform != "cpu":
            return None
        given = os.environ.get("XLA_FLAGS", "")
        return {name: value for name, value in options.items() if f"--{name}=" not in given}

    def _players(self) -> dict[str, Any]:
        """Networks and optimizers, as `create_train_state` and `make_train_step` take them."""
        section = self.config.optimizer
        make = functools.partial(
            make_optimizer, section.name, beta1=section.beta1, beta2=section.beta2
        )
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_tx": make(section.generator_learning_rate),
            "discriminator_tx": make(section.discriminator_learning_rate),
        }


def create_experiment(
    config: ConfigDict,
    folder: epath.PathLike | None = None,
    *,
    training: bool = True,
    fsdp: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Experiment:
    """Builds the parts of an experiment and loads the frozen networks.

    Args:
      config: A resolved configuration; see `configs/shapes_32.py` for every field.
      folder: Of the run or of the exported model. Only a projection of the text is read from it;
        without a folder, the experiment has only its shapes.
      training: Whether losses will be computed. Otherwise only the sections ``model`` and ``text``
        need to be right, and there are no image features.
      fsdp: See `sharding.make_mesh`.
      devices: Devices to compile for that need not be attached, described by a compiler. The
        experiment then has no frozen weights, only their shapes, and no tokenizer. None: all
        attached devices.

    Raises:
      UserError: a field is missing or has a value that cannot work, or weights are missing.
    """
    if training:
        check_training(config)
    else:
        check_model(config)
    mesh = sharding.make_mesh(devices, fsdp=fsdp)
    if training:
        sharding.check_batch_size(config.batch_size, mesh)
        check_accumulation(config.batch_size, config.accumulation_steps, mesh.size)
    generator, discriminator = _create_networks(config)
    is_attached = devices is None
    make_text_encoder = load_text_encoder if is_attached else describe_text_encoder
    text_encoder = make_text_encoder(config.text.encoder)
    if width := config.text.projection:
        text_projection.check_width(width, text_encoder.width)
        projection = text_projection.describe(text_encoder.width, width)
        text_encoder = text_projection.project(text_encoder, projection)
    image_features = None
    if training and config.loss.image_pretrained_weight:
        make_features = load_image_features if is_attached else describe_image_features
        image_features = make_features(
            config.loss.image_pretrained_network,
            config.loss.image_pretrained_weights,
            config.loss.image_pretrained_resolution,
        )
    frozen = FrozenParams(text_encoder.params, image_features.params if image_features else None)
    tokenizer = None
    if is_attached:
        tokenizer = Tokenizer(
            text_encoder.vocabulary_file, config.text.num_tokens, text_encoder.lowercase
        )
    experiment = Experiment(
        config,
        mesh,
        generator,
        discriminator,
        text_encoder,
        tokenizer,
        image_features,
        _put_weights(frozen, mesh),
    )
    has_projection = config.text.projection and folder is not None
    return experiment.with_projection(folder) if has_projection else experiment


def _instance_noise(config: ConfigDict) -> Schedule | None:
    """The standard deviation of `make_train_step`'s instance noise; it falls linearly to 0."""
    if not config.loss.instance_noise:
        return None
    return optax.linear_schedule(config.loss.instance_noise, 0.0, config.num_steps)


def _encoded(params: PyTree, text: EncodedText) -> EncodedText:
    """In place of the text encoder, for batches of a `CaptionCache`."""
    del params
    return text


def _put_weights(weights: PyTree, mesh: Mesh) -> PyTree:
    """Weights on all devices; those that are mere shapes stay that."""
    whole, is_shape = sharding.replicated(mesh), lambda x: isinstance(x, jax.ShapeDtypeStruct)
    return jax.tree.map(lambda x: x if is_shape(x) else sharding.put(x, whole), weights)


def _abstract(x: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _create_networks(config: ConfigDict) -> tuple[Generator, Discriminator]:
    dtype = jnp.dtype(config.model.dtype)
    try:
        generator = Generator(
            resolution=config.model.resolution,
            width=config.model.generator_width,
            z_dim=config.model.z_dim,
            modulation=config.model.modulation,
            first_layer=config.model.first_layer,
            sentence_scale=config.model.sentence_scale,
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
