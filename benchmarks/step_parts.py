"""Where the time of the default training step goes, before and after it was made faster.

    python -m benchmarks.step_parts                   # configs/one_shape_32.py, on this machine
    python -m benchmarks.step_parts --repeats=20 --config.model.generator_width=6

Both sides read the prepared shapes data (made on first use) and take turns. "Earlier" is the same
config with the fields of `EARLIER`, those of the default before it. Prints milliseconds per step of
each part, and images per second of the whole; what variety draws belongs to the generator, and R1
to the discriminator, if they are on. Parts are measured alone, each as one program: their sum
differs from the whole step, which shares work between them.
"""

import contextlib
import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from ml_collections import config_flags

from benchmarks import measure
from xmc_jax import cli, images, losses
from xmc_jax.data import catalog
from xmc_jax.experiment import create_experiment
from xmc_jax.models.layers import BATCH_STATS, SPECTRAL
from xmc_jax.parallel import sharding
from xmc_jax.train_state import make_optimizer
from xmc_jax.train_step import VARIETY_EVERY
from xmc_jax.training.data import open_stream
from xmc_jax.training.projection import fit_projection

CONFIG = config_flags.DEFINE_config_file("config", "configs/one_shape_32.py", "The experiment.")
NUM_CACHED_STEPS = flags.DEFINE_integer(
    "num_cached_steps", 1500, "Steps whose captions are in the cache before timing."
)
REPEATS = flags.DEFINE_integer("repeats", 9, "Timed turns of each side.", lower_bound=1)

EARLIER = {
    "batch_size": 32,
    "data.cached_captions": 0,
    "text.projection": 0,
    "model.first_layer": "noise",
    "model.sentence_scale": 1.0,
    "model.generator_width": 8,
    "loss.image_d_weight": 0.2,
    "loss.instance_noise": 0.0,
    "loss.variety_weight": 0.0,
    "loss.r1_weight": 0.0,
    "optimizer.name": "adam",
    "optimizer.decay_from": 1.0,
}


def part_functions(experiment, state, batch):
    """``{part: function without arguments}``, compiled, for the last micro-batch of a step."""
    last = jax.tree.map(lambda x: x[-1], batch)
    text = last.tokens
    if not experiment.config.data.cached_captions:
        text = jax.jit(experiment.text_encoder.apply)(experiment.frozen.text, text)
    words, sentence, mask = text
    real = images.from_uint8(last.image)
    z = jax.random.normal(jax.random.key(0), (len(real), experiment.generator.z_dim))
    generator, discriminator = experiment.generator, experiment.discriminator

    def generate(params, z, text):
        variables = {"params": params, BATCH_STATS: state.generator_stats}
        fake, _ = generator.apply(variables, z, *text, train=True, mutable=[BATCH_STATS])
        return jnp.sum(fake**2)

    def generate_all(params):
        section, chosen_from = experiment.config.loss, 0.0
        if section.variety_weight:
            several = (
                jnp.repeat(x[::VARIETY_EVERY], section.variety_candidates, axis=0)
                for x in (z, *text)
            )
            chosen_from = generate(params, next(several), tuple(several))
        return chosen_from, jax.grad(generate)(params, z, text)

    def discriminate(params, x):
        variables = {"params": params, SPECTRAL: state.spectral}
        return discriminator.apply(variables, x, sentence, train=True, mutable=[SPECTRAL])[0]

    def judge(params, x):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(discriminate(params, x)))

    def r1(params):
        if not experiment.config.loss.r1_weight:
            return 0.0
        return jnp.mean(
            losses.squared_gradient_norms(lambda x: discriminate(params, x).logits, real)
        )

    def judge_both(params, x):  # As the step: its parameters for both, and the fakes' pixels.
        of_real = jax.grad(judge)(params, real)
        of_fake = jax.grad(judge, argnums=(0, 1))(params, x), jax.grad(judge, 1)(params, x)
        return of_real, of_fake, jax.grad(r1)(params)

    regions = jax.eval_shape(
        lambda: discriminator.apply(
            {"params": state.discriminator, SPECTRAL: state.spectral}, real, sentence, train=False
        )
    ).regions
    regions = jax.random.normal(jax.random.key(1), regions.shape)

    def word_terms(regions):
        term = jax.grad(lambda x: losses.word_nce(x, words, mask)[0])
        return term(regions), term(-regions)

    section = experiment.config.optimizer
    tx = make_optimizer(section.name, 1e-3, beta1=section.beta1, beta2=section.beta2)
    players = state.generator, state.discriminator
    optimizer = jax.jit(tx.init)(players)

    def optimize(grads, optimizer, ema):
        updates, optimizer = tx.update(grads, optimizer, grads)
        return optimizer, optax.incremental_update(optax.apply_updates(grads, updates)[0], ema, 0.1)

    parts = {
        "generator": (generate_all, state.generator),
        "discriminator": (judge_both, state.discriminator, -real),
        "word term": (word_terms, regions),
        "optimizers and averages": (optimize, players, optimizer, state.generator),
    }
    return {name: functools.partial(jax.jit(f), *args) for name, (f, *args) in parts.items()}


def open_batches(stack, experiment, source):
    """The experiment's batches, and a function that sends one to the devices."""
    stream = stack.enter_context(contextlib.closing(open_stream(experiment, source, None, 0)))
    return stream, functools.partial(sharding.put_batch, mesh=experiment.mesh, batch_axis=1)


def make_side(stack, config, data_dir):
    """``{part: function without arguments}`` of a config; "whole" reads, encodes and steps."""
    workdir = stack.enter_context(tempfile.TemporaryDirectory())
    source = catalog.open_train_split(config, data_dir)
    experiment = create_experiment(config)
    if config.text.projection:
        fit_projection(experiment, workdir, source)
        experiment = experiment.with_projection(workdir)
    plain = config.copy_and_resolve_references()
    plain.data.cached_captions = 0
    tokens, _ = open_batches(stack, dataclasses.replace(experiment, config=plain), source)
    stream, put = open_batches(stack, experiment, source)
    if config.data.cached_captions:
        for _ in range(NUM_CACHED_STEPS.value):
            next(stream)
    encode = jax.jit(experiment.text_encoder.apply)
    frozen, some_tokens = experiment.frozen, jnp.asarray(next(tokens).tokens[-1])
    state, batch, rng = experiment.init_state(), put(next(stream)), experiment.make_rng()
    parts = part_functions(experiment, jax.tree.map(jnp.copy, state), batch)
    step, current = experiment.jit_train_step(), [state]

    def whole():
        current[0], metrics = step(current[0], put(next(stream)), frozen, rng)
        return metrics

    return {
        "reading": lambda: next(tokens),
        "text, every caption": lambda: encode(frozen.text, some_tokens),
        "reading and text, as configured": lambda: next(stream),
        **parts,
        "whole": whole,
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    now, earlier = CONFIG.value, CONFIG.value.copy_and_resolve_references()
    earlier.update_from_flattened_dict(EARLIER)
    with contextlib.ExitStack() as stack:
        sides = [make_side(stack, config, flags.FLAGS.data_dir) for config in (earlier, now)]
        rows = []
        for part in sides[0]:
            before, after = measure.time_in_turns([s[part] for s in sides], REPEATS.value)
            rows.append((part, 1e3 * before, 1e3 * after, f"{before / after:.2f}x"))
    speeds = [
        config.batch_size * config.d_steps / (milliseconds / 1e3)
        for config, milliseconds in zip((earlier, now), rows[-1][1:3], strict=True)
    ]
    rows.append(("images/s", *speeds, f"{speeds[1] / speeds[0]:.2f}x"))
    measure.print_table(("ms per step", "earlier", "now", "ratio"), rows)


if __name__ == "__main__":
    cli.define_data_dir_flag()
    app.run(main)
