"""The building blocks that the generator and the discriminator are made of."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xmc_jax.models.ops import normalization, resampling
from xmc_jax.models.ops.convolution import convolve
from xmc_jax.models.ops.normalization import add_bias, batch_norm_relu, materialize_gradient
from xmc_jax.models.ops.platforms import hold_apart_on_gpus

KERNEL_INIT = nn.initializers.glorot_normal()
SPECTRAL = "spectral"  # The collection that holds the power iterations' vectors.
# What checkpoint policies call the maps between blocks, those inside of blocks that only another
# convolution would bring back, and the few numbers that a spectral normalisation takes two passes
# over its kernel to find.
BLOCK_OUTPUT, INNER_MAP, SPECTRAL_NORM = "block_output", "inner_map", "spectral_norm"
_SPECTRAL_EPS = 1e-10


class Condition(NamedTuple):
    """What modulates the generator: one vector an image, and optionally a map of attended words.

    The map ``s`` of the paper, ``concat(context, vector)`` at every position with
    ``context = weights @ words``, is kept factored; see `ConditionalProjection`.

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

    Projecting the few words and then averaging them under the attention weights equals projecting
    their average at every position, and costs a fraction: ``t d c + r t c`` multiplications an
    image instead of ``r d c``. The vector's share is computed once an image.

    Attributes:
      features: Output channels.
      dtype: Compute type.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, condition: Condition) -> Float[Array, "b h0 w0 c"]:
        """A map at the condition's own resolution, 1x1 if there are no attended words."""
        text_width = 0 if condition.words is None else condition.words.shape[-1]
        shape = (text_width + condition.vector.shape[-1], self.features)
        kernel = self.param("kernel", KERNEL_INIT, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        out = condition.vector.astype(self.dtype) @ kernel[text_width:] + bias[None, :]
        out = out[:, None, None, :]
        if condition.words is not None:
            words = condition.words.astype(self.dtype) @ kernel[:text_width]
            # Of all layers' products with these weights GPUs' compiler would make one, and copy the
            # gradients of their results together for it.
            factors = hold_apart_on_gpus((condition.weights.astype(self.dtype), words))
            out = out + jnp.einsum("bhwt,btc->bhwc", *factors)
        return out


class BatchNorm(nn.Module):
    """Batch normalisation, scale and shift from outside, and a ReLU.

    Attributes:
      group_size: Consecutive images that share their statistics, which then must divide the batch;
        0: all images of all devices do. Running statistics are the mean of those of all groups.
      momentum: Of the running statistics, which are float32.
      epsilon: Added to variances.
    """

    group_size: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        gamma: Float[Array, "b rows columns c"],
        beta: Float[Array, "b rows columns c"],
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        """``relu((1 + gamma) * BN(x) + beta)``, see `batch_norm_relu`.

        Normalises by the batch's statistics, and moves the running ones, or by these.
        """
        b, _, _, c = x.shape
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
        if not train:
            now = normalization.Statistics(running_mean.value[None], running_var.value[None])
            return normalization.normalize_relu(x, gamma, beta, now, self.epsilon)
        y, now = batch_norm_relu(x, gamma, beta, self.group_size or b, self.epsilon)
        if not self.is_initializing():
            for running, groups in ((running_mean, now.mean), (running_var, now.var)):
                moved = self.momentum * running.value
                running.value = moved + (1.0 - self.momentum) * jnp.mean(groups, axis=0)
        return y


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are predicted from a condition, and a ReLU.

    ``relu(BN(x) * (1 + Dense_gamma(condition)) + Dense_beta(condition))``, where BN has no
    parameters (paper, "Attentional Self-Modulation Generator").

    Attributes:
      bn_group_size: See `BatchNorm`.
      dtype: Compute type; statistics are float32 whatever it is.
    """

    bn_group_size: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], condition: Condition, *, train: bool) -> Array:
        """Normalises, modulates and rectifies.

        Args:
          x: Activations.
          condition: Its map, if any, must have sides that divide those of ``x``, and counts as
            enlarged to ``x`` by nearest neighbour.
          train: Whether to normalise by the batch's statistics (and update the running ones) or
            by the running statistics.
        """
        # A 1x1 convolution commutes with nearest-neighbour enlargement, so gamma and beta are
        # computed at the condition's own resolution and serve all pixels of a cell.
        gamma, beta = (
            ConditionalProjection(x.shape[-1], self.dtype, name=name)(condition)
            for name in ("gamma", "beta")
        )
        norm = BatchNorm(self.bn_group_size, name="batch_norm")
        return norm(x.astype(self.dtype), gamma, beta, train=train)


class Conv(nn.Module):
    """Convolution with bias, stride 1 and same padding.

    Attributes:
      features: Output channels.
      kernel_size: Side of the square kernel.
      upsample: Whether the input counts as enlarged 2x by nearest neighbour; kernels of side 3.
      dtype: Compute type.
    """

    features: int
    kernel_size: int
    upsample: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        """Maps ``[b, h, w, c]`` to `features` channels, at twice the resolution if asked."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", KERNEL_INIT, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        apply = resampling.upsample_convolve if self.upsample else convolve
        return materialize_gradient(add_bias(apply(x.astype(self.dtype), kernel), bias))


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution under conditional normalisation.

    cBN, ReLU, upsample, conv 3x3, cBN, ReLU, conv 3x3, plus an upsampled 1x1 shortcut.

    Attributes:
      features: Output channels.
      bn_group_size: See `BatchNorm`.
      dtype: Compute type.
    """

    features: int
    bn_group_size: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], condition: Condition, *, train: bool) -> Array:
        """Maps ``[b, h, w, c]`` to ``[b, 2h, 2w, features]``; `condition` as in the cBN."""
        norm_1 = ConditionalBatchNorm(self.bn_group_size, self.dtype, name="norm_1")
        norm_2 = ConditionalBatchNorm(self.bn_group_size, self.dtype, name="norm_2")
        conv_1 = Conv(self.features, 3, upsample=True, dtype=self.dtype, name="conv_1")
        conv_2 = Conv(self.features, 3, dtype=self.dtype, name="conv_2")
        shortcut = Conv(self.features, 1, dtype=self.dtype, name="shortcut")

        h = checkpoint_name(conv_1(norm_1(x, condition, train=train)), INNER_MAP)
        h = conv_2(norm_2(h, condition, train=train))
        # The 1x1 shortcut commutes with the enlargement; before it, it costs a quarter.
        return h + resampling.upsample(shortcut(x))


def spectrally_normalized(
    module: nn.Module, kernel: Float[Array, "*k c n"], *, train: bool
) -> Float[Array, "*k c n"]:
    """A kernel divided by its largest singular value, which one power iteration estimates.

    The kernel counts as a matrix whose columns are the last axis. The vector ``u`` of the power
    iteration is kept in the collection ``"spectral"`` of `module`, and moves on if `train` is set.
    Gradients flow through the kernel in ``sigma = v W u``, but not through ``u`` and ``v``
    (Miyato et al. 2018).
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    state = module.variable(
        SPECTRAL,
        "u",
        lambda: jax.random.normal(module.make_rng("params"), (1, matrix.shape[1])),
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
    """Convolution with bias, stride 1, same padding and a spectrally normalised kernel.

    Attributes:
      features: Output channels.
      kernel_size: Side of the square kernel.
      pool: Whether the mean of every 2x2 square follows; kernels of side 3.
      dtype: Compute type; the normalisation itself is float32.
    """

    features: int
    kernel_size: int
    pool: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        """Maps ``[b, h, w, c]`` to `features` channels; `train` moves the power iteration."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", KERNEL_INIT, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        apply = resampling.convolve_pool if self.pool else convolve
        kernel = spectrally_normalized(self, kernel, train=train)
        return add_bias(apply(x.astype(self.dtype), kernel), bias)


class SpectralDense(nn.Module):
    """Dense layer with bias and a spectrally normalised kernel.

    Attributes:
      features: Output width.
      dtype: Compute type; the normalisation itself is float32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], *, train: bool) -> Array:
        """Maps the last axis to `features`; `train` moves the power iteration."""
        kernel = self.param("kernel", KERNEL_INIT, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = spectrally_normalized(self, kernel, train=train).astype(self.dtype)
        return add_bias(x.astype(self.dtype) @ kernel, bias)
