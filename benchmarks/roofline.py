"""The arithmetic of a forward pass by part, and whether memory or arithmetic limits each part.

    python -m benchmarks.roofline                      # 256 px, the paper's widths

Counts the convolutions and matrix products of the networks as they are lowered for a TPU, before
optimisation: multiplications and additions, and the bytes of their operands and results in the
compute type, as if each were read and written once. Intensity is FLOP per byte; a part whose
intensity is below a chip's ratio of peak arithmetic to memory bandwidth (v4: 275 TFLOP/s to 1.2
TB/s = 229; H100: 989 to 3.35 = 295) is bound by memory.
"""

import functools

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import measure, released
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.parallel import startup
from xmc_jax.planning import compiled

RESOLUTION = flags.DEFINE_integer("resolution", 256, "Side of the images.")
WIDTH = flags.DEFINE_integer("width", 96, "Base channels of both networks.")
TEXT_WIDTH = flags.DEFINE_integer("text_width", 768, "Width of the word embeddings.")
NUM_TOKENS = flags.DEFINE_integer("num_tokens", 17, "Words per caption.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per device; weights are read once.")

PARTS = {  # From the last known module in a product's path to the part that it belongs to.
    "conv_1": "3x3 convolutions, first of a block",
    "conv_2": "3x3 convolutions, second of a block",
    "shortcut": "1x1 shortcuts",
    "gamma": "modulation (gamma and beta)",
    "beta": "modulation (gamma and beta)",
    "to_rgb": "to RGB",
}


def tally(module, *inputs):
    """``(path, flops, bytes)`` of each convolution and matrix product in a forward pass.

    Args:
      module: A network.
      *inputs: Its inputs, arrays or their shapes.
    """
    init = functools.partial(module.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), *inputs)
    (collection,) = variables.keys() - {"params"}
    apply = jax.jit(functools.partial(module.apply, train=True, mutable=[collection]))
    lowered = apply.trace(variables, *inputs).lower(lowering_platforms=("tpu",))
    for instruction in compiled.read_program(lowered.as_text("hlo", debug_info=True)):
        if flops := compiled.product_flops(instruction):
            arrays = (*instruction.operands, instruction.result)
            size = sum(map(compiled.array_bytes, arrays))
            yield instruction.name, instruction.times * flops, instruction.times * size


def part_of(path: str) -> str:
    names = [name for name in path.split("/") if name in PARTS]
    return PARTS[names[-1]] if names else "text, attention, regions, logits"


def networks():
    """``(name, (ours, released), inputs)`` of both networks."""
    b, side, d = BATCH_SIZE.value, RESOLUTION.value, TEXT_WIDTH.value
    z, sentence = jnp.zeros((b, 128)), jnp.zeros((b, d))
    words, mask = jnp.zeros((b, NUM_TOKENS.value, d)), jnp.ones((b, NUM_TOKENS.value), bool)
    images = jnp.zeros((b, side, side, 3))
    fields = {"resolution": side, "width": WIDTH.value, "dtype": jnp.bfloat16}
    generators = Generator(z_dim=128, **fields), released.Generator(z_dim=128, **fields)
    yield "generator", generators, (z, words, sentence, mask)
    discriminators = Discriminator(**fields), released.Discriminator(**fields)
    yield "discriminator", discriminators, (images, sentence)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    startup.hide_missing_tpu()
    b = BATCH_SIZE.value
    for name, modules, inputs in networks():
        totals = []
        for module in modules:
            parts = {}
            for path, flops, size in tally(module, *inputs):
                sums = parts.setdefault(part_of(path), [0, 0])
                sums[0] += flops
                sums[1] += size
            totals.append(parts)
        ours, baseline = totals
        ours["all"], baseline["all"] = (
            [sum(column) for column in zip(*parts.values(), strict=True)] for parts in totals
        )
        print(f"\n{name}, forward, {RESOLUTION.value} px, width {WIDTH.value}, of {b} images")
        measure.print_table(
            (
                "",
                "GFLOP per image",
                "released",
                "MB per image",
                "released",
                "intensity",
                "released",
            ),
            [
                (
                    part,
                    ours[part][0] / b / 1e9,
                    baseline[part][0] / b / 1e9,
                    ours[part][1] / b / 1e6,
                    baseline[part][1] / b / 1e6,
                    ours[part][0] / ours[part][1],
                    baseline[part][0] / baseline[part][1],
                )
                for part in sorted(baseline, key=lambda part: baseline[part][0])
            ],
        )


if __name__ == "__main__":
    app.run(main)
