"""Everything that training changes, as one pytree."""

import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from optax import contrib

from xmc_jax.models.layers import BATCH_STATS, SPECTRAL, check_choice
from xmc_jax.types import PyTree, Schedule

OPTIMIZERS = ("adam", "muon")

# The axes of kernels that Muon orthogonalises, by their number: those of dense layers and of
# convolutions. All else is a vector or a number.
_MATRICES = {2: contrib.MuonDimensionNumbers(0, 1), 4: contrib.MuonDimensionNumbers((0, 1, 2), 3)}


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` steps.

    The same structure also holds shapes, shardings or arrays on the host.

    Attributes:
      step: Number of generator updates, an int32 scalar.
      generator: Parameters of the generator.
      generator_stats: Running statistics of its batch normalisations.
      discriminator: Parameters of the discriminator.
      spectral: The vectors of the power iterations in its spectral norms.
      ema: Exponential moving averages of the generator's parameters and running statistics,
        ``{"params", "batch_stats"}``. Images are generated with these.
      generator_optimizer: Optimizer state.
      discriminator_optimizer: Optimizer state.
    """

    step: PyTree
    generator: PyTree
    generator_stats: PyTree
    discriminator: PyTree
    spectral: PyTree
    ema: PyTree
    generator_optimizer: optax.OptState
    discriminator_optimizer: optax.OptState


def make_optimizer(
    name: str, learning_rate: float, *, beta1: float, beta2: float
) -> optax.GradientTransformation:
    """The optimizer of a player.

    ``"adam"`` (Kingma & Ba 2015) is that of the paper. ``"muon"`` (Jordan et al. 2024) updates
    kernels by their orthogonalised momentum: a kernel is seen as the matrix that takes its inputs
    to its outputs, and all singular values of an update are about equal, so that no direction waits
    for the few that dominate the gradient. Biases and other vectors have Adam. With
    ``"muon"``, both have Nesterov's momentum.

    Args:
      name: One of `OPTIMIZERS`.
      learning_rate: The root mean square of an update's elements: about that of Muon's, and that of
        Adam's where gradients keep their sign.
      beta1: Decay of the mean of the gradients, 0..1: the momentum of both.
      beta2: Decay of the mean of their squares, 0..1; Adam only.

    Raises:
      ValueError: There is no such optimizer.
    """
    check_choice("name", name, OPTIMIZERS)
    if name == "adam":
        return optax.adam(learning_rate, b1=beta1, b2=beta2)
    return contrib.muon(
        learning_rate,
        beta=beta1,
        adam_b1=beta1,
        adam_b2=beta2,
        consistent_rms=1.0,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(
            lambda x: _MATRICES.get(x.ndim), params
        ),
    )


def make_rate_factor(num_steps: int, warmup_until: float, decay_from: float) -> Schedule | None:
    """What learning rates are multiplied by, as a function of the step; None if they stay.

    A line from 0 to 1, then 1, then half a cosine to 0 at the end of the run.

    Args:
      num_steps: Steps of the run.
      warmup_until: Fraction of the run where the line ends, 0..1; 0: there is none.
      decay_from: Fraction of the run where the cosine begins, 0..1; 1: there is none. Where it
        begins before the line ends, the factor is the product of both.
    """
    factors = []
    if end := round(warmup_until * num_steps):
        factors.append(optax.linear_schedule(0.0, 1.0, end))
    begin = round(decay_from * num_steps)
    if begin < num_steps:
        decay = optax.cosine_decay_schedule(1.0, num_steps - begin)
        factors.append(lambda step: decay(jnp.maximum(step - begin, 0)))
    if not factors:
        return None
    return lambda step: math.prod(factor(step) for factor in factors)


def init_generator(rng: Array, generator: nn.Module, *, text_width: int) -> PyTree:
    """The parameters and running statistics of a `Generator` before the first step."""
    words, sentence = jnp.zeros((1, 1, text_width)), jnp.zeros((1, text_width))
    z, mask = jnp.zeros((1, generator.z_dim)), jnp.ones((1, 1), bool)
    return generator.init({"params": rng}, z, words, sentence, mask, train=False)


def create_train_state(
    rng: Array,
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    text_width: int,
) -> TrainState:
    """The state before the first step; `text_width` is the width ``d`` of the word embeddings."""
    g_rng, d_rng = jax.random.split(rng)
    g = init_generator(g_rng, generator, text_width=text_width)
    images = jnp.zeros((1, generator.resolution, generator.resolution, 3))
    sentence = jnp.zeros((1, text_width))
    d = discriminator.init({"params": d_rng}, images, sentence, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=g["params"],
        generator_stats=g[BATCH_STATS],
        discriminator=d["params"],
        spectral=d[SPECTRAL],
        # Copies, because the step donates its input and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, g),
        generator_optimizer=generator_tx.init(g["params"]),
        discriminator_optimizer=discriminator_tx.init(d["params"]),
    )
