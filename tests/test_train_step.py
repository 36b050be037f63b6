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
from xmc_jax.models.augmentation import Augmentation, Changes
from xmc_jax.objectives import LossWeights
from xmc_jax.parallel import sharding

# All that is off in the paper's configs; R1 in every second step.
ADDED = {
    "loss_weights": LossWeights(variety=0.7, image_pretrained=1.0),
    "variety_candidates": 3,
    "augmentation": Augmentation(translation=0.125, color=1.0, cutout=0.5),
    "r1_weight": 0.3,
    "r1_every_steps": 2,
    "clip_norm": 3.0,
}


@pytest.fixture
def frozen():
    return make_frozen()


def r1(params, spectral, images, sentence, discriminator=DISCRIMINATOR):
    """The mean over images of the squared norm of the logit's gradient, one image at a time."""

    def logit(image, sentence):
        out, _ = discriminator.apply(
            {"params": params, "spectral": spectral},
            image[None],
            sentence[None],
            train=True,
            mutable=["spectral"],
        )
        return out.logits[0]

    gradients = jax.vmap(jax.grad(logit))(images, sentence)
    return jnp.mean(jnp.sum(gradients**2, axis=(1, 2, 3)))


def plain_step(
    state,
    batch,
    frozen,
    rng,
    num_parts=1,
    loss_weights=LossWeights(),
    variety_candidates=0,
    augmentation=None,
    r1_weight=0.0,
    r1_every_steps=1,
    clip_norm=jnp.inf,
):
    """The algorithm of the paper written out: two calls of `jax.grad`, nothing shared.

    With several parts, images i, i + num_parts, … share their batch statistics.
    """
    rng = jax.random.fold_in(rng, state.step)

    def change(images, z_rng):
        if augmentation is None:
            return images
        draws = augmentation.draw(jax.random.fold_in(z_rng, 2), *images.shape[:2])
        return augmentation.apply(images, draws)

    def generate(g_params, state, z, text):
        generated = [
            GENERATOR.apply(
                {"params": g_params, "batch_stats": state.generator_stats},
                *jax.tree.map(lambda x, i=i: x[i::num_parts], (z, *text)),
                train=True,
                mutable=["batch_stats"],
            )
            for i in range(num_parts)
        ]
        stacked = jnp.stack([x for x, _ in generated], axis=1)
        stats = jax.tree.map(lambda *x: sum(x) / num_parts, *[updated for _, updated in generated])
        return stacked.reshape(-1, *stacked.shape[2:]), stats

    def choose(z, real, text):
        """Noise for every fourth image, by the images of all candidates in one batch."""
        shape = (len(real[::4]), variety_candidates, GENERATOR.z_dim)
        candidates = jax.random.normal(jax.random.fold_in(rng, len(batch.image)), shape)
        inputs = candidates, *(jnp.stack([x[::4]] * variety_candidates, axis=1) for x in text)
        fakes, _ = GENERATOR.apply(
            {"params": state.generator, "batch_stats": state.generator_stats},
            *(x.reshape(-1, *x.shape[2:]) for x in inputs),
            train=True,
            mutable=["batch_stats"],
        )
        for i, image in enumerate(real[::4]):
            own = fakes[i * variety_candidates : (i + 1) * variety_candidates]
            best = jnp.argmin(jnp.sum((own - image[None]) ** 2, axis=(1, 2, 3)))
            z = z.at[4 * i].set(candidates[i, best])
        return z

    def forward(g_params, d_params, state, real, text, z, z_rng):
        fake, stats = generate(g_params, state, z, text)
        out, spectral = DISCRIMINATOR.apply(
            {"params": d_params, "spectral": state.spectral},
            jnp.concatenate([change(real, z_rng), change(fake, z_rng)]),
            jnp.concatenate([text[1], text[1]]),
            train=True,
            mutable=["spectral"],
        )
        on_real = jax.tree.map(lambda x: x[: len(real)], out)
        on_fake = jax.tree.map(lambda x: x[len(real) :], out)
        return fake, on_real, on_fake, stats["batch_stats"], spectral["spectral"]

    def d_loss(d_params, g_params, state, real, text, z, z_rng):
        _, on_real, on_fake, _, _ = forward(g_params, d_params, state, real, text, z, z_rng)
        loss = losses.hinge_d_loss(on_real.logits, on_fake.logits)
        loss += losses.info_nce(on_real.embedding, on_real.sentence)[0]
        loss += losses.word_nce(on_real.regions, text[0], text[2])[0]
        if r1_weight:
            penalty = r1(d_params, state.spectral, change(real, z_rng), text[1])
            is_due = (state.step + 1) % r1_every_steps == 0
            loss += is_due * r1_every_steps * r1_weight / 2 * penalty
        return loss

    def g_loss(g_params, d_params, state, real, text, z, z_rng):
        fake, on_real, on_fake, _, _ = forward(g_params, d_params, state, real, text, z, z_rng)
        loss = losses.hinge_g_loss(on_fake.logits)
        loss += losses.info_nce(on_fake.embedding, on_fake.sentence)[0]
        loss += losses.word_nce(on_fake.regions, text[0], text[2])[0]
        loss += losses.info_nce(on_fake.embedding, on_real.embedding)[0]
        if variety_candidates:
            distances = jnp.mean(jnp.abs(fake - real), axis=(1, 2, 3))
            loss += loss_weights.variety * jnp.sum(distances[::4]) / len(real)
        features = (image_features(frozen.image, x) for x in (real, fake))
        return loss + losses.info_nce(*features)[0]

    def descend(params, grads):
        shortened = jnp.minimum(1.0, clip_norm / optax.tree.norm(grads))
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * shortened * g, params, grads)

    d_steps = batch.image.shape[0]
    for index in range(d_steps):
        z_rng, _ = jax.random.split(jax.random.fold_in(rng, index))
        real = images.from_uint8(batch.image[index])
        text = encode_text(frozen.text, batch.tokens[index])
        z = jax.random.normal(z_rng, (real.shape[0], GENERATOR.z_dim))
        if variety_candidates and index == d_steps - 1:
            z = choose(z, real, text)
        args = (state, real, text, z, z_rng)
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


# Several updates of the discriminator, and none of the options, are also held by `test_released`.
@pytest.mark.parametrize(
    ("d_steps", "num_parts", "options"),
    [
        (1, 2, ADDED),
        pytest.param(1, 1, {}, marks=pytest.mark.long),
        pytest.param(2, 2, {}, marks=pytest.mark.long),
        pytest.param(2, 1, ADDED, marks=pytest.mark.long),
    ],
)
def test_equals_the_algorithm_written_out(frozen, d_steps, num_parts, options):
    """Accumulation changes batch statistics alone: every loss is that of the whole micro-batch."""
    batch, rng = jax.tree.map(jnp.asarray, make_batch(d_steps)), jax.random.key(3)
    step = jax.jit(make_step(accumulation_steps=num_parts, **options))
    plain = jax.jit(functools.partial(plain_step, num_parts=num_parts, **options))
    # With R1 the second step has it, and the first does not.
    for index in range(2 if options else 1):
        state = make_state().replace(step=jnp.int32(index))
        got, metrics = step(state, batch, frozen, rng)
        assert_same_states(got, plain(state, batch, frozen, rng), state)
    if options:
        assert metrics["d/grad_norm"] > options["clip_norm"] and metrics["d/r1"] > 0


def assert_same_states(got, want, state):
    for name in ("generator", "discriminator"):
        assert_same_updates(getattr(got, name), getattr(want, name), getattr(state, name))
    for name in ("generator_stats", "spectral", "ema", "step"):
        assert_close(getattr(got, name), getattr(want, name))
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), got.generator, state.generator)
    assert max(jax.tree.leaves(moved)) > 1e-4


IN_PARTS = {"accumulation_steps": 2, "remat": "blocks"}
IN_BFLOAT16 = {"discriminator": DISCRIMINATOR.clone(dtype=jnp.bfloat16)}


@pytest.mark.parametrize(
    ("fsdp", "options", "rtol"),
    [
        (2, {"remat": "elementwise"}, 1e-3),
        pytest.param(8, IN_PARTS, 1e-3, marks=pytest.mark.long),
        pytest.param(1, {}, 1e-3, marks=pytest.mark.long),
        pytest.param(1, IN_BFLOAT16, 0.1, marks=pytest.mark.long),
    ],
    ids=["split", "split in parts", "at once", "bfloat16"],
)
def test_r1_is_that_of_single_images(monkeypatch, frozen, fsdp, options, rtol):
    """At the images that the discriminator sees, times the number of steps that it stands for."""
    monkeypatch.setattr(sharding, "_SMALLEST_SPLIT", 32)
    step, state = (make_step(mesh=sharding.make_mesh(fsdp=fsdp), **ADDED, **options), make_state())

    @jax.jit
    def penalize(algorithm=step.__self__):
        batch = jax.tree.map(lambda x: jnp.asarray(x[0]), make_batch(1, b=16))
        example = algorithm._prepare(batch, frozen, jax.random.key(0), state.step, 0)
        zeros = jax.tree.map(jnp.zeros_like, state.discriminator)
        return example, algorithm._add_r1(state, example, zeros)

    @jax.jit
    def penalize_single(example):
        seen = ADDED["augmentation"].apply(example.real, example.changes)
        return jax.value_and_grad(
            lambda params: 0.15 * r1(params, state.spectral, seen, example.text.sentence)
        )(state.discriminator)

    example, (value, grads) = penalize()
    want, gradients = penalize_single(jax.device_get(example))
    np.testing.assert_allclose(value, want, rtol=rtol)
    assert_close(grads, jax.tree.map(lambda x: 2.0 * x, gradients), rtol, atol=rtol / 100)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_what_is_off_leaves_no_trace(frozen):
    args = make_state(), make_batch(1), frozen, jax.random.key(0)
    assert "d/r1" not in jitted_step().eval_shape(*args)[1]
    prepare = make_step(augmentation=Augmentation()).__self__._prepare
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), args[1])
    example = jax.eval_shape(lambda step: prepare(batch, *args[2:], step, 0), args[0].step)
    assert example.changes == Changes() and example.noise == (None, None)


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
