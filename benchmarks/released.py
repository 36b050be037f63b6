"""The released formulation, plain and slow: the baseline of all benchmarks in this folder.

Written from the equations, with no algebra applied: spatial gamma and beta are 1x1 convolutions of
the full-resolution condition map, blocks enlarge before they convolve and convolve before they
pool, the word term attends caption by caption, real and fake images are concatenated. Parameters,
statistics and spectral vectors have the names and shapes of the library's own networks, so that the
two exchange them; `tests/test_released.py` holds the library to these numbers.

Losses are float32 here as in the library. (The released code computes them in bfloat16 where the
networks are, which costs less and is wrong; see README.md, "Where this departs".)
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from xmc_jax.models.discriminator import CHANNEL_MULTIPLIERS as D_MULTIPLIERS
from xmc_jax.models.discriminator import DiscriminatorOutput
from xmc_jax.models.generator import CHANNEL_MULTIPLIERS as G_MULTIPLIERS
from xmc_jax.objectives import LossWeights

_CONV_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(x, kernel, bias):
    """Stride 1, same padding."""
    x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_CONV_DIMENSIONS)
    return x + bias.reshape(1, 1, 1, -1)


def enlarge(x, factor):
    """Nearest neighbour."""
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def halve(x):
    """The mean of every 2x2 square."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def cosine_normalize(x):
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))


class Pointwise(nn.Module):
    """A dense layer on vectors, a 1x1 convolution on maps; the kernel is a matrix."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.glorot_normal()
        kernel = self.param("kernel", init, (x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        if x.ndim == 2:
            return x.astype(self.dtype) @ kernel + bias.reshape(1, -1)
        return convolve(x.astype(self.dtype), kernel[None, None], bias)


class ConditionalBatchNorm(nn.Module):
    """``BN(x) (1 + gamma(condition)) + beta(condition)``, at the resolution of ``x``."""

    dtype: Any

    @nn.compact
    def __call__(self, x, condition, train):
        channels, side = x.shape[-1], x.shape[1]
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_bias=False,
            use_scale=False,
            dtype=self.dtype,
            name="batch_norm",
        )(x)
        if condition.ndim == 4:
            condition = enlarge(condition, side // condition.shape[1])
        gamma = Pointwise(channels, self.dtype, name="gamma")(condition)
        beta = Pointwise(channels, self.dtype, name="beta")(condition)
        if condition.ndim == 2:
            gamma, beta = gamma[:, None, None, :], beta[:, None, None, :]
        return x * (1 + gamma) + beta


class GeneratorBlock(nn.Module):
    """cBN, ReLU, enlarge, conv 3x3, cBN, ReLU, conv 3x3; shortcut enlarge, conv 1x1."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, condition, train):
        def conv(size, name):
            init = nn.initializers.glorot_normal()
            return nn.Conv(
                self.features, (size, size), kernel_init=init, dtype=self.dtype, name=name
            )

        h = nn.relu(ConditionalBatchNorm(self.dtype, name="norm_1")(x, condition, train))
        h = conv(3, "conv_1")(enlarge(h, 2))
        h = nn.relu(ConditionalBatchNorm(self.dtype, name="norm_2")(h, condition, train))
        return conv(3, "conv_2")(h) + conv(1, "shortcut")(enlarge(x, 2))


class Generator(nn.Module):
    """The library's `Generator`, its fields and its parameters."""

    resolution: int
    width: int
    z_dim: int
    modulation: str = "attentional"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z, words, sentence, word_mask, *, train):
        multipliers = G_MULTIPLIERS[self.resolution]
        init = nn.initializers.glorot_normal()

        def dense(features, name):
            return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)

        projected = dense(self.z_dim, "project_sentence")(sentence)
        condition = jnp.concatenate([projected, z.astype(self.dtype)], axis=-1)
        channels = multipliers[0] * self.width
        x = dense(16 * channels, "project_noise")(z).reshape(-1, 4, 4, channels)
        for index, multiplier in enumerate(multipliers):
            if index == 2 and self.modulation == "attentional":
                query = nn.Conv(
                    words.shape[-1], (1, 1), kernel_init=init, dtype=self.dtype, name="query"
                )(x)
                context = self.attend(query, words, word_mask)
                shape = (*context.shape[:3], condition.shape[-1])
                vectors = jnp.broadcast_to(condition[:, None, None, :], shape)
                condition = jnp.concatenate([context.astype(self.dtype), vectors], axis=-1)
            block = GeneratorBlock(multiplier * self.width, self.dtype, name=f"block_{index}")
            x = block(x, condition, train)
        x = nn.relu(ConditionalBatchNorm(self.dtype, name="final_norm")(x, condition, train))
        x = nn.Conv(3, (3, 3), kernel_init=init, dtype=self.dtype, name="to_rgb")(x)
        return jnp.tanh(x.astype(jnp.float32))

    @staticmethod
    def attend(query, words, word_mask, gamma=15.0):
        b, h, w, d = query.shape
        regions = cosine_normalize(query.astype(jnp.float32)).reshape(b, h * w, d)
        words = cosine_normalize(words)
        logits = gamma * jnp.einsum("brd,btd->brt", regions, words)
        weights = jax.nn.softmax(jnp.where(word_mask[:, None, :], logits, -1e9), axis=-1)
        return jnp.einsum("brt,btd->brd", weights, words).reshape(b, h, w, d)


class SpectralConv(nn.Module):
    """A convolution, or a dense layer (`size` 0), whose kernel is divided by its spectral norm."""

    features: int
    size: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        shape = (self.size, self.size) if self.size else ()
        shape = (*shape, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        matrix = kernel.reshape(-1, self.features)
        state = self.variable(
            "spectral", "u", lambda: jax.random.normal(self.make_rng("params"), (1, self.features))
        )
        v = state.value @ matrix.T
        v = jax.lax.stop_gradient(v / (jnp.linalg.norm(v) + 1e-10))
        u = v @ matrix
        u = jax.lax.stop_gradient(u / (jnp.linalg.norm(u) + 1e-10))
        if train and not self.is_initializing():
            state.value = u
        kernel = (kernel / ((v @ matrix @ u.T)[0, 0] + 1e-10)).astype(self.dtype)
        x = x.astype(self.dtype)
        return convolve(x, kernel, bias) if self.size else x @ kernel + bias.reshape(1, -1)


class DiscriminatorBlock(nn.Module):
    """[ReLU], conv 3x3, ReLU, conv 3x3, [mean]; shortcut conv 1x1, [mean]."""

    features: int
    downsample: bool
    first: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        def conv(size, name):
            return SpectralConv(self.features, size, self.dtype, name=name)

        h = conv(3, "conv_1")(x if self.first else nn.relu(x), train)
        h = conv(3, "conv_2")(nn.relu(h), train)
        if self.first:
            return halve(h) + conv(1, "shortcut")(halve(x), train)
        if self.downsample or x.shape[-1] != self.features:
            x = conv(1, "shortcut")(x, train)
        return halve(h) + halve(x) if self.downsample else h + x


class Discriminator(nn.Module):
    """The library's `Discriminator`, for a batch of images and as many sentences."""

    resolution: int
    width: int
    region_resolution: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, sentence, *, train):
        """Scores a concatenation of real and fake images."""
        multipliers = D_MULTIPLIERS[self.resolution]
        x = DiscriminatorBlock(self.width, True, True, self.dtype, name="block_0")(images, train)
        maps = {x.shape[1]: x}
        for index, multiplier in enumerate(multipliers):
            downsample = index + 1 < len(multipliers)
            name, features = f"block_{index + 1}", multiplier * self.width
            x = DiscriminatorBlock(features, downsample, False, self.dtype, name=name)(x, train)
            if downsample:
                maps[x.shape[1]] = x
        d = sentence.shape[-1]
        regions = SpectralConv(d, 1, self.dtype, name="regions")(
            maps[self.region_resolution], train
        )
        pooled = nn.relu(x).astype(jnp.float32).sum(axis=(1, 2))
        projected = SpectralConv(pooled.shape[-1], 0, jnp.float32, name="sentence")(sentence, train)
        logits = SpectralConv(1, 0, jnp.float32, name="logit")(pooled, train)[:, 0]
        logits = logits + jnp.sum(pooled * projected, axis=-1)
        regions = regions.astype(jnp.float32).reshape(regions.shape[0], -1, d)
        return DiscriminatorOutput(logits, pooled, projected, regions)


def cross_entropy_both_ways(scores):
    """Mean cross-entropy of rows plus that of columns, the diagonal being the target."""
    rows = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores, axis=1)))
    columns = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores, axis=0)))
    return rows + columns


def info_nce(a, b):
    """Both directions at temperature 0.1."""
    return cross_entropy_both_ways(cosine_normalize(a) @ cosine_normalize(b).T / 0.1)


def word_nce(regions, words, word_mask):
    """Each caption attends to the regions of all images; its contexts are formed, then compared."""
    regions, words = cosine_normalize(regions), cosine_normalize(words)

    def score_caption(caption):
        words, mask = caption  # [t, d], [t]
        similarity = jnp.einsum("brd,td->brt", regions, words)
        weights = jax.nn.softmax(5.0 * similarity, axis=1)
        contexts = jnp.einsum("brt,brd->btd", weights, regions)
        match = jnp.sum(cosine_normalize(contexts) * words[None], axis=-1)
        return jax.nn.logsumexp(5.0 * jnp.where(mask[None], match, -1e9), axis=-1) / 5.0

    scores = jax.vmap(score_caption)((words, word_mask))  # captions x images
    return cross_entropy_both_ways(50.0 * scores.T)


class Step(NamedTuple):
    """One training step: discriminator updates, then one shared forward pass for both players.

    `train_step` has the arguments of the library's step, and uses the same noise.
    """

    generator: Generator
    discriminator: Discriminator
    generator_tx: optax.GradientTransformation
    discriminator_tx: optax.GradientTransformation
    encode_text: Any
    image_features: Any
    weights: LossWeights
    ema_decay: float

    def train_step(self, state, batch, frozen, rng):
        rng = jax.random.fold_in(rng, state.step)
        num_micro_batches = batch.image.shape[0]
        for index in range(num_micro_batches - 1):
            example = self.prepare(batch, frozen, rng, index)
            grads, moved = jax.grad(self.d_loss, argnums=1, has_aux=True)(
                state.generator, state.discriminator, state, example, frozen
            )
            state = self.update(state, "discriminator", grads).replace(spectral=moved["spectral"])

        example = self.prepare(batch, frozen, rng, num_micro_batches - 1)
        losses, pull_back, moved = jax.vjp(
            lambda g, d: self.both_losses(g, d, state, example, frozen),
            state.generator,
            state.discriminator,
            has_aux=True,
        )
        _, d_grads = pull_back((jnp.ones(()), jnp.zeros(())))
        g_grads, _ = pull_back((jnp.zeros(()), jnp.ones(())))
        state = self.update(state, "discriminator", d_grads)
        state = self.update(state, "generator", g_grads)
        new = {"params": state.generator, "batch_stats": moved["batch_stats"]}
        decay = self.ema_decay
        state = state.replace(
            step=state.step + 1,
            generator_stats=moved["batch_stats"],
            spectral=moved["spectral"],
            ema=jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, new),
        )
        return state, dict(zip(("d/loss", "g/loss"), losses, strict=True))

    def prepare(self, batch, frozen, rng, index):
        z_rng, _ = jax.random.split(jax.random.fold_in(rng, index))
        real = batch.image[index].astype(jnp.float32) / 127.5 - 1
        z = jax.random.normal(z_rng, (real.shape[0], self.generator.z_dim))
        return real, *self.encode_text(frozen.text, batch.tokens[index]), z

    def update(self, state, player, grads):
        tx = getattr(self, f"{player}_tx")
        params, optimizer = getattr(state, player), getattr(state, f"{player}_optimizer")
        updates, optimizer = tx.update(grads, optimizer, params)
        params = optax.apply_updates(params, updates)
        return state.replace(**{player: params, f"{player}_optimizer": optimizer})

    def d_loss(self, g_params, d_params, state, example, frozen):
        (d_loss, _), moved = self.both_losses(g_params, d_params, state, example, frozen)
        return d_loss, moved

    def both_losses(self, g_params, d_params, state, example, frozen):
        real, words, sentence, word_mask, z = example
        b, weights = real.shape[0], self.weights
        fake, g_moved = self.generator.apply(
            {"params": g_params, "batch_stats": state.generator_stats},
            z,
            words,
            sentence,
            word_mask,
            train=True,
            mutable=["batch_stats"],
        )
        output, d_moved = self.discriminator.apply(
            {"params": d_params, "spectral": state.spectral},
            jnp.concatenate([real, fake]),
            jnp.concatenate([sentence, sentence]),
            train=True,
            mutable=["spectral"],
        )
        on_real = jax.tree.map(lambda x: x[:b], output)
        on_fake = jax.tree.map(lambda x: x[b:], output)

        def text_terms(on_images):
            return weights.sentence * info_nce(
                on_images.embedding, on_images.sentence
            ) + weights.word * word_nce(on_images.regions, words, word_mask)

        hinge = jnp.mean(nn.relu(1 - on_real.logits)) + jnp.mean(nn.relu(1 + on_fake.logits))
        d_loss = hinge + text_terms(on_real)
        g_loss = -jnp.mean(on_fake.logits) + text_terms(on_fake)
        g_loss += weights.image_d * info_nce(on_fake.embedding, on_real.embedding)
        if self.image_features:
            of_real, of_fake = (self.image_features(frozen.image, x) for x in (real, fake))
            g_loss += weights.image_pretrained * info_nce(of_real, of_fake)
        return (d_loss, g_loss), g_moved | d_moved
