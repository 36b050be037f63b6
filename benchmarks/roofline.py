"""Where the arithmetic of a forward pass goes, and whether memory or arithmetic binds it.

    python -m benchmarks.roofline                      # 256 px, the paper's widths

Counts the convolutions and matrix products of the traced networks: multiplications and additions,
and the bytes of their operands and results in the compute type, as if each were read and written
once. Intensity is FLOP a byte; a part whose intensity is below a chip's ratio of peak arithmetic to
memory bandwidth (v4: 275 TFLOP/s to 1.2 TB/s = 229; H100: 989 to 3.35 = 295) waits for memory.
"""

import functools
import math

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.extend.core import jaxprs_in_params

from benchmarks import measure, released
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator

RESOLUTION = flags.DEFINE_integer("resolution", 256, "Side of the images.")
WIDTH = flags.DEFINE_integer("width", 96, "Base channels of both networks.")
TEXT_WIDTH = flags.DEFINE_integer("text_width", 768, "Width of the word embeddings.")
NUM_TOKENS = flags.DEFINE_integer("num_tokens", 17, "Words a caption.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of a device; weights are read once.")

PARTS = {  # The last module of a product's path, to the part it belongs to.
    "conv_1": "3x3 convolutions, first of a block",
    "conv_2": "3x3 convolutions, second of a block",
    "shortcut": "1x1 shortcuts",
    "gamma": "modulation (gamma and beta)",
    "beta": "modulation (gamma and beta)",
    "to_rgb": "to RGB",
}


def tally(jaxpr, path=""):
    """``(path, flops, bytes)`` of every convolution and matrix product."""
    for equation in jaxpr.eqns:
        here = f"{path}/{equation.source_info.name_stack}"
        inner = list(jaxprs_in_params(equation.params))
        if equation.primitive.name == "cond":
            inner = inner[-1:]  # One form a platform; the last is that of accelerators.
        if equation.primitive.name.startswith("custom_vjp"):
            inner = inner[:1]
        for jaxpr_inside in inner:
            yield from tally(jaxpr_inside, here)
        if flops := measure.count_operations(equation):
            arrays = [v.aval for v in (*equation.invars, *equation.outvars)]
            size = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
            yield here, flops, size


def part_of(path: str) -> str:
    names = [name for name in path.split("/") if name in PARTS]
    return PARTS[names[-1]] if names else "text, attention, regions, logits"


def forward_passes():
    """``(name, ours, released)`` jaxprs of both networks."""
    b, side, d = BATCH_SIZE.value, RESOLUTION.value, TEXT_WIDTH.value
    z, sentence = jnp.zeros((b, 128)), jnp.zeros((b, d))
    words, mask = jnp.zeros((b, NUM_TOKENS.value, d)), jnp.ones((b, NUM_TOKENS.value), bool)
    images = jnp.zeros((b, side, side, 3))
    fields = {"resolution": side, "width": WIDTH.value, "dtype": jnp.bfloat16}

    def trace(module, collection, *inputs):
        variables = jax.eval_shape(
            functools.partial(module.init, train=False), jax.random.key(0), *inputs
        )
        apply = functools.partial(module.apply, train=True, mutable=[collection])
        return jax.make_jaxpr(apply)(variables, *inputs).jaxpr

    for name, collection, modules, inputs in (
        (
            "generator",
            "batch_stats",
            (Generator(z_dim=128, **fields), released.Generator(z_dim=128, **fields)),
            (z, words, sentence, mask),
        ),
        (
            "discriminator",
            "spectral",
            (Discriminator(**fields), released.Discriminator(**fields)),
            (images, sentence),
        ),
    ):
        yield name, *(trace(module, collection, *inputs) for module in modules)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    b = BATCH_SIZE.value
    for name, *jaxprs in forward_passes():
        totals = []
        for jaxpr in jaxprs:
            parts = {}
            for path, flops, size in tally(jaxpr):
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
            ("", "GFLOP an image", "released", "MB an image", "released", "intensity", "released"),
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
