"""A full training step (discriminator step, then the step of both) against the released one.

    python -m benchmarks.train_step                                    # the CPU setting
    python -m benchmarks.train_step --resolution=256 --width=96 --batch_size=16 --dtype=bfloat16 \
        --steps_a_turn=10                                              # on a GPU
    python -m benchmarks.train_step --resolution=256 --width=96 --batch_size=8 --dtype=bfloat16 \
        --topology=v4:2x2x1                                            # compiled only, needs libtpu
    python -m benchmarks.train_step --settings        # ours alone: config.remat, accumulation_steps

Both sides take the same state, pixels and word embeddings. The text encoder is left out because it
is equal on both sides. Prints seconds, memory, FLOPs and their ratios, and the difference between
the two states after one step.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks import measure, released
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.models.remat import REMAT_POLICIES
from xmc_jax.objectives import LossWeights
from xmc_jax.planning.topology import find_devices
from xmc_jax.train_state import create_train_state
from xmc_jax.train_step import FrozenParams, make_train_step
from xmc_jax.types import Batch

RESOLUTION = flags.DEFINE_integer("resolution", 128, "Side of the images.")
WIDTH = flags.DEFINE_integer("width", 16, "Base channels of both networks; 96 in the paper.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of a micro-batch.")
TEXT_WIDTH = flags.DEFINE_integer("text_width", 768, "Width of the word embeddings.")
NUM_TOKENS = flags.DEFINE_integer("num_tokens", 17, "Words per caption.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the convolutions.")
REMAT = flags.DEFINE_enum("remat", "none", list(REMAT_POLICIES), "Ours: what to recompute.")
SETTINGS = flags.DEFINE_bool("settings", False, "Compare settings of ours only.")
REPEATS = flags.DEFINE_integer("repeats", 9, "Timed turns of each side.", lower_bound=1)
STEPS_A_TURN = flags.DEFINE_integer(
    "steps_a_turn",
    1,
    "Steps per timed turn; more than 1 on accelerators, as training does not wait for each.",
    lower_bound=1,
)
TOPOLOGY = flags.DEFINE_string("topology", None, "Only compile, for one chip of a TPU slice.")

NUM_MICRO_BATCHES = 2
VOCABULARY = 1000


def encode_text(table, tokens):
    """Word embeddings from a table: replaces the frozen encoder at almost no cost."""
    mask = tokens != 0
    words = table[tokens] * mask[..., None]
    return words, words.sum(1) / mask.sum(1, keepdims=True), mask


def make_parts():
    """Fields of the networks, and optimizers, by the flags."""
    networks = {
        "resolution": RESOLUTION.value,
        "width": WIDTH.value,
        "dtype": jnp.dtype(DTYPE.value),
    }
    tx = {
        "generator_tx": optax.adam(1e-4, b1=0.5, b2=0.999),
        "discriminator_tx": optax.adam(4e-4, b1=0.5, b2=0.999),
    }
    return networks, tx


def make_ours(remat="none", accumulation_steps=1):
    """``(create_state, step)``, not compiled."""
    networks, tx = make_parts()
    modules = {
        "generator": Generator(z_dim=128, **networks),
        "discriminator": Discriminator(**networks),
    }
    step = make_train_step(
        **modules,
        **tx,
        encode_text=encode_text,
        loss_weights=LossWeights(),
        ema_decay=0.999,
        flip=False,
        remat=remat,
        accumulation_steps=accumulation_steps,
    )
    return functools.partial(create_train_state, **modules, **tx), step


def make_released():
    networks, tx = make_parts()
    return released.Step(
        released.Generator(z_dim=128, **networks),
        released.Discriminator(**networks),
        **tx,
        encode_text=encode_text,
        image_features=None,
        weights=LossWeights(),
        ema_decay=0.999,
    ).train_step


def make_arguments():
    """State, batch, frozen weights and key by the flags, on the default device."""
    rng = np.random.default_rng(0)
    shape = (NUM_MICRO_BATCHES, BATCH_SIZE.value)
    lengths = rng.integers(min(5, NUM_TOKENS.value), NUM_TOKENS.value + 1, (*shape, 1))
    tokens = rng.integers(1, VOCABULARY, (*shape, NUM_TOKENS.value))
    tokens *= np.arange(NUM_TOKENS.value) < lengths
    pixels = rng.integers(0, 256, (*shape, RESOLUTION.value, RESOLUTION.value, 3))
    create_state, _ = make_ours()
    create_state = jax.jit(functools.partial(create_state, text_width=TEXT_WIDTH.value))
    state = create_state(jax.random.key(0))
    table = jnp.float32(rng.normal(size=(VOCABULARY, TEXT_WIDTH.value)))
    batch = Batch(jnp.uint8(pixels), jnp.int32(tokens))
    return state, batch, FrozenParams(table), jax.random.key(1)


def distance(got, want, start):
    """The distance between two updated states, relative to the change by the step."""

    def norm(a, b):
        squares = [
            jnp.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
        ]
        return float(jnp.sqrt(sum(squares)))

    return norm(got, want) / norm(want, start)


def describe_arguments():
    """The arguments' shapes on one chip of the flag's TPU slice, which need not exist."""
    device = find_devices(TOPOLOGY.value)[0]
    print(f"compiled for one {device.device_kind}, not run; jax {jax.__version__}")
    place = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(make_arguments),
    )


def start_runs(programs, args):
    """A function for each program that takes a step, and the dictionary of current states.

    States are donated, so each program has its own copy.
    """
    start, *rest = args
    states = {program.name: jax.tree.map(jnp.copy, start) for program in programs}

    def take_step(program):
        states[program.name], _ = program.run(states[program.name], *rest)
        return states[program.name]

    return [functools.partial(take_step, program) for program in programs], states


def compare_with_released(args):
    programs = measure.compile_programs(
        {"ours": make_ours(REMAT.value)[1], "released": make_released()}, *args, donate_argnums=0
    )
    if TOPOLOGY.value:
        measure.print_comparison(*programs, "step")
        return
    runs, states = start_runs(programs, args)
    ours, baseline = (run() for run in runs)
    apart = {
        name: distance(*(getattr(state, name) for state in (ours, baseline, args[0])))
        for name in ("generator_stats", "spectral")
    }
    del ours, baseline
    seconds = measure.time_in_turns(runs, REPEATS.value, STEPS_A_TURN.value)
    measure.print_comparison(*programs, "step", *seconds)
    shown = ", ".join(f"{v:.1e} of {k}" for k, v in apart.items())
    print(f"after one step the states differ by {shown}")


def compare_settings(args):
    """Compares settings of ours: the cost and the savings of remat and accumulation."""
    steps = {
        f"{remat}, {parts} part{'s' * (parts > 1)}": make_ours(remat, parts)[1]
        for remat, parts in itertools.product(REMAT_POLICIES, (1, 2, 4))
    }
    programs = measure.compile_programs(steps, *args, donate_argnums=0)
    header = ("remat, accumulation", "temporary MB", "GFLOP", "seconds to compile")
    rows = [(p.name, p.megabytes, p.gigaflops, p.compile_seconds) for p in programs]
    if not TOPOLOGY.value:
        runs, _ = start_runs(programs, args)
        seconds = measure.time_in_turns(runs, REPEATS.value, STEPS_A_TURN.value)
        header = (*header, "seconds per step")
        rows = [(*row, s) for row, s in zip(rows, seconds, strict=True)]
    measure.print_table(header, rows)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if TOPOLOGY.value:
        args = describe_arguments()
    else:
        measure.print_environment()
        args = make_arguments()
    compare = compare_settings if SETTINGS.value else compare_with_released
    compare(args)


if __name__ == "__main__":
    app.run(main)
