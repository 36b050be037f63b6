"""Image generation with averaged weights, compared with the released formulation.

    python -m benchmarks.sampling                                       # the CPU setting
    python -m benchmarks.sampling --width=96 --batch_size=4 --repeats=3 # the paper's width

Text encoding is left out because it is equal on both sides. Prints seconds per image, memory,
FLOPs, their ratios and the largest difference of a pixel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measure, released
from xmc_jax import images
from xmc_jax.models.generator import Generator

RESOLUTION = flags.DEFINE_integer("resolution", 128, "Side of the images.")
WIDTH = flags.DEFINE_integer("width", 16, "Base channels; 96 in the paper.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per call.")
TEXT_WIDTH = flags.DEFINE_integer("text_width", 768, "Width of the word embeddings.")
NUM_TOKENS = flags.DEFINE_integer("num_tokens", 17, "Words per caption.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the convolutions.")
REPEATS = flags.DEFINE_integer("repeats", 9, "Timed calls of each side.", lower_bound=1)

Z_DIM = 128


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    fields = {
        "resolution": RESOLUTION.value,
        "width": WIDTH.value,
        "z_dim": Z_DIM,
        "dtype": jnp.dtype(DTYPE.value),
    }
    rng = np.random.default_rng(0)
    b = BATCH_SIZE.value
    z, words, sentence = (
        jnp.float32(rng.normal(size=shape))
        for shape in ((b, Z_DIM), (b, NUM_TOKENS.value, TEXT_WIDTH.value), (b, TEXT_WIDTH.value))
    )
    mask = jnp.arange(NUM_TOKENS.value)[None] < rng.integers(5, NUM_TOKENS.value + 1, (b, 1))
    inputs = z, words, sentence, mask
    variables = jax.jit(functools.partial(Generator(**fields).init, train=False))(
        jax.random.key(0), *inputs
    )

    def generate(generator, variables, *inputs):
        return images.to_uint8(generator.apply(variables, *inputs, train=False))

    fast, plain = (
        measure.compile_program(
            name, functools.partial(generate, module(**fields)), variables, *inputs
        )
        for name, module in (("ours", Generator), ("released", released.Generator))
    )
    runs = [functools.partial(program.run, variables, *inputs) for program in (fast, plain)]
    got, want = (np.int32(run()) for run in runs)
    seconds = measure.time_in_turns(runs, REPEATS.value)
    measure.print_comparison(fast, plain, "image", *(s / b for s in seconds))
    print(f"pixels differ by at most {np.abs(got - want).max()} of 255")


if __name__ == "__main__":
    app.run(main)
