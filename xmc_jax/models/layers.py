"""The layers and blocks of the generator and the discriminator."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xmc_jax.models.ops import normalization, resampling
from xmc_jax.models.ops.convolution import convolve
from xmc_jax.models.ops.platforms import barrier_on_gpus

KERNEL_INIT = nn.initializers.glorot_normal()
# Collections of variables: running statistics, and vectors of the power iterations.
BATCH_STATS, SPECTRAL = "batch_stats", "spectral"
# Names for the policies in remat.py: feature maps between blocks; feature maps inside of blocks,
# which only another convolution could recompute; and the few numbers for which a spectral
# normalisation makes two passes over its kernel.
BLOCK_OUTPUT, INNER_MAP, SPECTRAL_NORM = "block_output", "inner_map", "spectral_norm"
_SPECTRAL_EPS = 1e-10
MOMENTUM, EPSILON = 0.9, 1e-5  # Of batch normalisation: decay of running statistics, and epsilon.


def check_choice(field: str, value: Any, choices: Iterable) -> None:
    """Raises `ValueError` for a module's field whose value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{field}={value!r} is not one of {', '.join(map(str, choices))}")


def kernel_and_bias(module: nn.Module, *shape: int) -> tuple[Array, Array]:
    """The parameters of a convolution or dense layer, by the shape of its kernel."""
    kernel = module.param("kernel", KERNEL_INIT, shape)
    return kernel, module.param("bias", nn.initializers.zeros, shape[-1:])


class Condition(NamedTuple):
    """What modulates the generator: one vector per image, and optionally a map of attended words.

    The map ``s`` of the paper is ``concat(context, vector)`` at every position, where
    ``context = weights @ words``. It is kept in these factors; see `ConditionalProjection`.

    Attributes:
      vector: The global condition.
      weights: Attention of the positions of a square map over the words, or None.
      words: The attended (L2-normalised) words, or None.
    """

    vector: Float[Array, "b k"]
    weights: Float[Array, "b h0 w0 t"] | None = None
    words: Float[Array, "b t d"] | None = None


class ConditionalProjection(nn.Module):
    """A 1x1 convolution of the condition: ``concat(context, vector) @ kernel + bias``.

    Projecting the few words first and averaging them by the attention weights afterwards equals
    projecting their average at every position, and costs less: ``t d c + r t c`` multiplications
    per image instead of ``r d c``. The vector is projected once per image.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, condition: Condition) -> Float[Array, "b h0 w0 c"]:
        """A map at the resolution of the condition, or 1x1 if there are no attended words."""
        text_width = 0 if condition.words is None else condition.words.shape[-1]
        params = kernel_and_bias(self, text_width + condition.vector.shape[-1], self.features)
        kernel, bias = (x.astype(self.dtype) for x in params)
        out = condition.vector.astype(self.dtype) @ kernel[text_width:] + bias[None, :]
        out = out[:, None, None, :]
        if condition.words is not None:
            words = condition.words.astype(self.dtype) @ kernel[:text_width]
            # On GPUs XLA would merge these products across layers and concatenate their gradients.
            factors = barrier_on_gpus((condition.weights.astype(self.dtype), words))
            out = out + jnp.einsum("bhwt,btc->bhwc", *factors)
        return out


class BatchNorm(nn.Module):
    """Batch normalisation with given scales and shifts, and a ReLU.

    Attributes:
      group_size: Number of consecutive images that share their statistics, which must divide the
        batch. With 0, all images of all devices share them. The running statistics, which are
        float32, follow the mean over groups.
    """

    group_size: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        gamma: Float[Array, "b rows columns c"],
        beta: Float[Array, "b rows columns c"],
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        """``relu((1 + gamma) * BN(x) + beta)``; see `batch_norm_relu`.

        In training, uses the statistics of the batch and updates the running statistics; otherwise
        uses the running statistics.
        """
        b, _, _, c = x.shape
        running_mean = self.variable(BATCH_STATS, "mean", jnp.zeros, (c,))
        running_var = self.variable(BATCH_STATS, "var", jnp.ones, (c,))
        if not train:
            statistics = normalization.Statistics(running_mean.value[None], running_var.value[None])
            return normalization.normalize_relu(x, gamma, beta, statistics, EPSILON)
        group_size = self.group_size or b
        y, statistics = normalization.batch_norm_relu(x, gamma, beta, group_size, EPSILON)
        if not self.is_initializing():
            for running, of_groups in zip((running_mean, running_var), statistics, strict=True):
                old = MOMENTUM * running.value
                running.value = old + (1.0 - MOMENTUM) * jnp.mean(of_groups, axis=0)
        return y


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with scales and shifts predicted from a condition, and a ReLU.

    ``relu(BN(x) * (1 + Dense_gamma(condition)) + Dense_beta(condition))``, where BN has no
    parameters (paper, "Attentional Self-Modulation Generator"). Statistics are always
    float32.
    """

    bn_group_size: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], condition: Condition, *, train: bool) -> Array:
        """Normalises, modulates and applies the ReLU; `train` as in `BatchNorm`.

        If the condition has a map, its sides must divide those of ``x``, and it applies to ``x`` as
        if upsampled by nearest neighbour.
        """
        # A 1x1 convolution commutes with nearest-neighbour upsampling, so gamma and beta are
        # computed at the resolution of the condition, once for all pixels of a cell.
        gamma, beta = (
            ConditionalProjection(x.shape[-1], self.dtype, name=name)(condition)
            for name in ("gamma", "beta")
        )
        norm = BatchNorm(self.bn_group_size, name="batch_norm")
        return norm(x.astype(self.dtype), gamma, beta, train=train)


class Conv(nn.Module):
    """Convolution with bias, stride 1 and same padding."""

    features: int
    kernel_size: int
    upsample: bool = False  # 2x by nearest neighbour, before the convolution; only for 3x3 kernels.
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        side = self.kernel_size
        kernel, bias = kernel_and_bias(self, side, side, x.shape[-1], self.features)
        apply = resampling.upsample_convolve if self.upsample else convolve
        y = normalization.add_bias(apply(x.astype(self.dtype), kernel), bias)
        return normalization.materialize_gradient(y)


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution under conditional normalisation.

    cBN, ReLU, upsample, conv 3x3, cBN, ReLU, conv 3x3, plus an upsampled 1x1 shortcut. Maps
    ``[b, h, w, c]`` to ``[b, 2h, 2w, features]``.
    """

    features: int
    bn_group_size: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], condition: Condition, *, train: bool) -> Array:
        norm_1 = ConditionalBatchNorm(self.bn_group_size, self.dtype, name="norm_1")
        norm_2 = ConditionalBatchNorm(self.bn_group_size, self.dtype, name="norm_2")
        conv_1 = Conv(self.features, 3, upsample=True, dtype=self.dtype, name="conv_1")
        conv_2 = Conv(self.features, 3, dtype=self.dtype, name="conv_2")
        shortcut = Conv(self.features, 1, dtype=self.dtype, name="shortcut")

        h = checkpoint_name(conv_1(norm_1(x, condition, train=train)), INNER_MAP)
        h = conv_2(norm_2(h, condition, train=train))
        # The 1x1 shortcut commutes with upsampling, and costs a quarter when it comes first.
        return h + resampling.upsample(shortcut(x))


def spectrally_normalized(
    module: nn.Module, kernel: Float[Array, "*k c n"], *, train: bool
) -> Float[Array, "*k c n"]:
    """Divides a kernel by its largest singular value, which one power iteration estimates.

    The kernel is reshaped to a matrix W whose columns are its last axis. Gradients flow through the
    kernel in ``sigma = v W u``, but not through ``u`` and ``v`` (Miyato et al. 2018). The module's
    collection ``"spectral"`` holds ``u``, which is updated if `train` is set. All in float32.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    state = module.variable(
        SPECTRAL, "u", lambda: jax.random.normal(module.make_rng("params"), (1, matrix.shape[1]))
    )

    def unit(x: Array) -> Array:
        return x / (jnp.linalg.norm(x) + _SPECTRAL_EPS)

    frozen = jax.lax.stop_gradient(matrix)
    v = unit(state.value @ frozen.T)
    u = unit(v @ frozen)
    if train and not module.is_initializing():
        state.value = u
    u, v = checkpoint_name((u, v), SPECTRAL_NORM)
    sigma = checkpoint_name(jnp.squeeze(v @ matrix @ u.T), SPECTRAL_NORM)
    # A kernel of zeros has sigma = 0, and would become NaN without the epsilon.
    return kernel / (sigma + _SPECTRAL_EPS)


class SpectralConv(nn.Module):
    """Convolution with bias, stride 1, same padding and a spectrally normalised kernel."""

    features: int
    kernel_size: int
    pool: bool = False  # Whether to average every 2x2 square afterwards; only for 3x3 kernels.
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        side = self.kernel_size
        kernel, bias = kernel_and_bias(self, side, side, x.shape[-1], self.features)
        apply = resampling.convolve_pool if self.pool else convolve
        kernel = spectrally_normalized(self, kernel, train=train)
        return normalization.add_bias(apply(x.astype(self.dtype), kernel), bias)


class SpectralDense(nn.Module):
    """Dense layer of the last axis, with bias and a spectrally normalised kernel."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], *, train: bool) -> Array:
        kernel, bias = kernel_and_bias(self, x.shape[-1], self.features)
        kernel = spectrally_normalized(self, kernel, train=train).astype(self.dtype)
        return normalization.add_bias(x.astype(self.dtype) @ kernel, bias)
