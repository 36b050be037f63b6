"""The word term alone, value and gradient, compared with the per-caption formulation.

    python -m benchmarks.word_term                # both sides at b=64, t=17 and t=64
    python -m benchmarks.word_term --growth       # ours alone, b=64 to 1024 (15 minutes)
    python -m benchmarks.word_term --sharded      # bytes between 8 fake devices

The gradient is taken with respect to regions and words.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measure, released
from xmc_jax import losses
from xmc_jax.objectives import make_contrastive_terms
from xmc_jax.parallel import sharding
from xmc_jax.planning import compiled

NUM_REGIONS = flags.DEFINE_integer("num_regions", 256, "Regions per image (r).")
TEXT_WIDTH = flags.DEFINE_integer("text_width", 768, "Width of regions and words (d).")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images and captions (b).")
NUM_TOKENS = flags.DEFINE_multi_integer("num_tokens", [17, 64], "Words per caption (t).")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each side.", lower_bound=1)
GROWTH = flags.DEFINE_bool("growth", False, "Show time and memory as the batch grows.")
SHARDED = flags.DEFINE_bool("sharded", False, "Show the communication of 8 devices.")


def make_arguments(batch_size, num_tokens):
    rng = np.random.default_rng(0)
    regions = rng.standard_normal((batch_size, NUM_REGIONS.value, TEXT_WIDTH.value), np.float32)
    words = rng.standard_normal((batch_size, num_tokens, TEXT_WIDTH.value), np.float32)
    lengths = rng.integers(5, num_tokens + 1, (batch_size, 1))
    return jnp.asarray(regions), jnp.asarray(words), jnp.arange(num_tokens)[None] < lengths


def ours(regions, words, word_mask):
    return losses.word_nce(regions, words, word_mask)[0]


def compile_gradient(name, loss, args):
    return measure.compile_program(name, jax.value_and_grad(loss, argnums=(0, 1)), *args)


def compare(batch_size):
    for num_tokens in NUM_TOKENS.value:
        print(f"\nb={batch_size}, t={num_tokens}")
        args = make_arguments(batch_size, num_tokens)
        fast = compile_gradient("ours", ours, args)
        plain = compile_gradient("per caption", released.word_nce, args)
        runs = [functools.partial(program.run, *args) for program in (fast, plain)]
        (value, gradient), (plain_value, plain_gradient) = (run() for run in runs)
        measure.print_comparison(fast, plain, "call", *measure.time_in_turns(runs, REPEATS.value))
        apart = [
            float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
            for a, b in zip((value, *gradient), (plain_value, *plain_gradient), strict=True)
        ]
        print("loss and gradients differ by", ", ".join(f"{x:.1e}" for x in apart))


def show_growth():
    for num_tokens in NUM_TOKENS.value:
        rows = []
        for batch_size in (64, 128, 256, 512, 1024):
            args = make_arguments(batch_size, num_tokens)
            program = compile_gradient("ours", ours, args)
            start = time.perf_counter()
            jax.block_until_ready(program.run(*args))
            seconds = time.perf_counter() - start
            rows.append((batch_size, seconds, program.megabytes, program.megabytes / batch_size))
        print(f"\nt={num_tokens}")
        measure.print_table(("b", "seconds", "temporary MB", "MB per caption"), rows)


def show_exchange(batch_size):
    mesh = sharding.make_mesh()
    split = sharding.batch_sharding(mesh)
    _, word_nce = make_contrastive_terms(mesh, 0)
    for num_tokens in NUM_TOKENS.value:
        args = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split),
            jax.eval_shape(functools.partial(make_arguments, batch_size, num_tokens)),
        )
        gradient = jax.value_and_grad(lambda *a: word_nce(*a)[0], argnums=(0, 1))
        step = jax.jit(gradient, out_shardings=(None, (split, split))).lower(*args).compile()
        moved = compiled.collective_bytes(compiled.read_program(step.as_text()))
        words = args[1].size * 4 / 1e6
        print(f"\nb={batch_size}, t={num_tokens}, {mesh.size} devices, per device:")
        rows = [(kind, total / 1e6) for kind, total in moved.items()]
        rows += [
            ("(all words, float32)", words),
            ("(score matrix)", batch_size**2 * 4 / 1e6),
            ("(temporary memory)", compiled.measure_memory(step).temporaries / 1e6),
        ]
        measure.print_table(("", "MB"), rows)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if SHARDED.value:
        jax.config.update("jax_num_cpu_devices", 8)
    measure.print_environment()
    if GROWTH.value:
        show_growth()
    elif SHARDED.value:
        show_exchange(BATCH_SIZE.value)
    else:
        compare(BATCH_SIZE.value)


if __name__ == "__main__":
    app.run(main)
