"""train_step.py: equal to the algorithm written out; what is compiled; what is recomputed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.small_step import (
    DISCRIMINATOR,
    EMA_DECAY,
    GENERATOR,
    LEARNING_RATE,
    assert_close,
    assert_same_step,
    assert_same_updates,
    encode_text,
    equations,
    image_features,
    jitted_step,
    make_batch,
    make_frozen,
    make_state,
    make_step,
)
from xmc_jax import images, losses


@pytest.fixture
def frozen():
    return make_frozen()


def plain_step(state, batch, frozen, rng, num_parts=1):
    """The algorithm of the paper written out: two calls of `jax.grad`, nothing shared.

    With several parts, images i, i + num_parts, … share their batch statistics.
    """
    rng = jax.random.fold_in(rng, state.step)

    def forward(g_params, d_params, state, real, text, z):
        generated = [
            GENERATOR.apply(
                {"params": g_params, "batch_stats": state.generator_stats},
                *jax.tree.map(lambda x, i=i: x[i::num_parts], (z, *text)),
                train=True,
                mutable=["batch_stats"],
            )
            for i in range(num_parts)
        ]
        fake = jnp.stack([x for x, _ in generated], axis=1).reshape(real.shape)
        stats = jax.tree.map(lambda *x: sum(x) / num_parts, *[updated for _, updated in generated])
        out, spectral = DISCRIMINATOR.apply(
            {"params": d_params, "spectral": state.spectral},
            jnp.concatenate([real, fake]),
            jnp.concatenate([text[1], text[1]]),
            train=True,
            mutable=["spectral"],
        )
        on_real = jax.tree.map(lambda x: x[: len(real)], out)
        on_fake = jax.tree.map(lambda x: x[len(real) :], out)
        return fake, on_real, on_fake, stats["batch_stats"], spectral["spectral"]

    def d_loss(d_params, g_params, state, real, text, z):
        _, on_real, on_fake, _, _ = forward(g_params, d_params, state, real, text, z)
        loss = losses.hinge_d_loss(on_real.logits, on_fake.logits)
        loss += losses.info_nce(on_real.embedding, on_real.sentence)[0]
        return loss + losses.word_nce(on_real.regions, text[0], text[2])[0]

    def g_loss(g_params, d_params, state, real, text, z):
        fake, on_real, on_fake, _, _ = forward(g_params, d_params, state, real, text, z)
        loss = losses.hinge_g_loss(on_fake.logits)
        loss += losses.info_nce(on_fake.embedding, on_fake.sentence)[0]
        loss += losses.word_nce(on_fake.regions, text[0], text[2])[0]
        loss += losses.info_nce(on_fake.embedding, on_real.embedding)[0]
        features = (image_features(frozen.image, x) for x in (real, fake))
        return loss + losses.info_nce(*features)[0]

    def descend(params, grads):
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads)

    d_steps = batch.image.shape[0]
    for index in range(d_steps):
        z_rng, _ = jax.random.split(jax.random.fold_in(rng, index))
        real = images.from_uint8(batch.image[index])
        text = encode_text(frozen.text, batch.tokens[index])
        z = jax.random.normal(z_rng, (real.shape[0], GENERATOR.z_dim))
        args = (state, real, text, z)
        *_, stats, spectral = forward(state.generator, state.discriminator, *args)
        d_grads = jax.grad(d_loss)(state.discriminator, state.generator, *args)
        if index == d_steps - 1:
            g_grads = jax.grad(g_loss)(state.generator, state.discriminator, *args)
            generator = descend(state.generator, g_grads)
            new = {"params": generator, "batch_stats": stats}
            ema = jax.tree.map(lambda e, x: EMA_DECAY * e + (1 - EMA_DECAY) * x, state.ema, new)
            state = state.replace(
                generator=generator, generator_stats=stats, ema=ema, step=state.step + 1
            )
        state = state.replace(
            discriminator=descend(state.discriminator, d_grads), spectral=spectral
        )
    return state


# Several updates of the discriminator are also held by `test_released`.
@pytest.mark.parametrize(
    ("d_steps", "num_parts"),
    [
        (1, 2),
        pytest.param(1, 1, marks=pytest.mark.long),
        pytest.param(2, 2, marks=pytest.mark.long),
    ],
)
def test_equals_the_algorithm_written_out(frozen, d_steps, num_parts):
    """Accumulation changes batch statistics alone: every loss is that of the whole micro-batch."""
    batch, rng = jax.tree.map(jnp.asarray, make_batch(d_steps)), jax.random.key(3)
    state = make_state()
    got, _ = jax.jit(make_step(accumulation_steps=num_parts))(state, batch, frozen, rng)
    want = jax.jit(functools.partial(plain_step, num_parts=num_parts))(state, batch, frozen, rng)
    for name in ("generator", "discriminator"):
        assert_same_updates(getattr(got, name), getattr(want, name), getattr(state, name))
    for name in ("generator_stats", "spectral", "ema", "step"):
        assert_close(getattr(got, name), getattr(want, name))
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), got.generator, state.generator)
    assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.long  # A step more to compile; most of it is in the test of every update.
def test_rates_fall_and_the_discriminator_alone_sees_noise(frozen):
    options = {"rate_factor": lambda _: jnp.float32(0.5), "instance_noise": lambda step: 0.3 * step}
    step = jax.jit(make_step(**options))
    state, rest = make_state(), (make_batch(1), frozen, jax.random.key(0))
    plain, got = (run(state, *rest) for run in (jitted_step(), step))  # No noise yet.
    assert_close(got[1], plain[1])
    for name in ("generator", "discriminator"):
        old, new = (getattr(x, name) for x in (state, plain[0]))
        half = jax.tree.map(lambda x, y: x + 0.5 * (y - x), old, new)
        assert_close(getattr(got[0], name), half)

    later = state.replace(step=jnp.int32(2))
    plain, noisy = (run(later, *rest)[1] for run in (jitted_step(), step))
    assert_close(noisy["g/image_pretrained"], plain["g/image_pretrained"])
    for term in ("d/loss", "d/sentence", "g/sentence", "g/image_d"):
        assert abs(noisy[term] - plain[term]) > 1e-3


def test_compiles_once_and_is_a_function_of_state_batch_and_rng(frozen):
    step, first, runs = jitted_step(), make_state(), []
    num_programs = step._cache_size()  # Of other tests.
    for _ in range(2):
        state = first
        for index in range(3):
            state, metrics = step(state, make_batch(1, seed=index), frozen, jax.random.key(0))
        runs.append(jax.device_get((state, metrics)))
    assert step._cache_size() <= num_programs + 1
    jax.tree.map(np.testing.assert_array_equal, *runs)
    assert int(runs[0][0].step) == 3


def test_no_host_transfer_inside_the_step(frozen):
    step = jitted_step()
    args = jax.device_put((make_state(), make_batch(1), frozen, jax.random.key(0)))
    step(*args)
    with jax.transfer_guard("disallow"):
        _, metrics = step(*args)
    assert np.isfinite(metrics["d/loss"])
    text = step.trace(*args).lower().as_text()
    assert "callback" not in text and "outfeed" not in text


@pytest.mark.parametrize("remat", ["elementwise", pytest.param("blocks", marks=pytest.mark.long)])
def test_recomputing_changes_no_number(frozen, remat):
    args = (make_state(), make_batch(1), frozen, jax.random.key(0))
    steps = jax.jit(make_step(remat=remat)), jitted_step()
    recomputing, plain = (step.trace(*args).jaxpr.jaxpr for step in steps)

    def count(jaxpr, name):
        return sum(equation.primitive.name == name for equation in equations(jaxpr))

    assert (count(recomputing, "conv_general_dilated") > count(plain, "conv_general_dilated")) == (
        remat == "blocks"
    )
    assert count(recomputing, "max") > count(plain, "max")  # ReLUs.
    assert_same_step(*(step(*args) for step in steps))


def test_every_term_reports_loss_and_accuracy(frozen):
    _, metrics = jitted_step().eval_shape(make_state(), make_batch(1), frozen, jax.random.key(0))
    terms = {"d": ["sentence", "word"], "g": ["sentence", "word", "image_d", "image_pretrained"]}
    for player, names in terms.items():
        for name in names:
            assert {f"{player}/{name}", f"{player}/{name}_accuracy"} <= metrics.keys()
    assert all(x.shape == () and x.dtype == jnp.float32 for x in metrics.values())


def test_every_update_reports_and_gradient_norms_are_those_of_the_updates(frozen):
    """Of updates at half the rate; noise begins after the first step."""
    state, noise = make_state(), jax.jit(lambda step: 0.3 * step)
    step = jax.jit(
        make_step(every_update=True, rate_factor=lambda _: jnp.float32(0.5), instance_noise=noise)
    )
    new, (first, last) = step(state, make_batch(), frozen, jax.random.key(0))
    rate = 0.5 * LEARNING_RATE
    added = jax.tree.map(lambda a, b: (a - b) / rate, new.generator, state.generator)
    np.testing.assert_allclose(last["g/grad_norm"], optax.tree.norm(added), rtol=1e-3)
    assert first.keys() == {name for name in last if name.startswith("d/")}
    assert first["d/loss"] != last["d/loss"]

    # What the discriminator makes of real images, before any update, depends on noise alone.
    _, (noisy, _) = step(state.replace(step=jnp.int32(2)), make_batch(), frozen, jax.random.key(0))
    assert abs(noisy["d/sentence"] - first["d/sentence"]) > 1e-2

    # An image feature that is not finite spoils only the term that uses it.
    image = frozen.image.at[0, 0].set(jnp.nan)
    new, (first, last) = step(state, make_batch(), frozen._replace(image=image), jax.random.key(0))
    bad = {name for name, value in last.items() if not np.isfinite(value)}
    assert bad == {"g/image_pretrained", "g/loss", "g/grad_norm"}
    assert all(np.isfinite(value) for value in first.values())


def test_frozen_weights_are_arguments_not_constants(frozen):
    closed = jax.make_jaxpr(make_step())(make_state(), make_batch(1), frozen, jax.random.key(0))
    consts = closed.consts
    assert (
        max(np.size(c) for c in consts) <= 16 * 16
    )  # Where small maps' pixels are; see resampling.


def test_pretrained_term_without_network_is_refused():
    with pytest.raises(ValueError, match="image_features is None"):
        make_step(image_features=None)


def test_bfloat16_keeps_parameters_losses_and_logits_in_float32(frozen):
    half = {
        "generator": GENERATOR.clone(dtype=jnp.bfloat16),
        "discriminator": DISCRIMINATOR.clone(dtype=jnp.bfloat16),
    }
    step = make_step(**half, flip=True)
    out = jax.eval_shape(step, make_state(), make_batch(1), frozen, jax.random.key(0))
    floats = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
