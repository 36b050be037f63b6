"""Files for ONNX Runtime: how large, how fast, and how far from the images of `generate`.

    python -m benchmarks.onnx_files                                # the demo
    python -m benchmarks.onnx_files --workdir=runs/one_shape_32

Prints a row for each storage type of the text encoder, then the seconds of one image. int8, which
`export` does not offer, is only rounded to, with a scale for each output of a kernel and each
embedding, and its size is counted.
"""

import itertools

import numpy as np
import onnxruntime
from absl import app, flags

import xmc_jax
from benchmarks import measure
from xmc_jax.demo import demo_folder
from xmc_jax.frozen import text_projection
from xmc_jax.frozen.text_encoder import TextEncoder, describe_bert
from xmc_jax.inference.batches import make_noise
from xmc_jax.inference.export import to_storage
from xmc_jax.inference.model import load_networks
from xmc_jax.inference.onnx.generator import build_generator
from xmc_jax.inference.onnx.text_encoder import build_text_encoder

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run; the demo by default.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Timed images of each side.", lower_bound=1)

SIZES = ("small", "large")
COLOURS, SHAPES = ("red", "green", "blue", "yellow", "purple"), ("circle", "star")
CAPTIONS = [f"a {' '.join(words)}" for words in itertools.product(SIZES, COLOURS, SHAPES)]
SEED = 7


def round_to_int8(encoder: TextEncoder) -> tuple[TextEncoder, int]:
    """The encoder with its large arrays rounded, and the bytes that this saves of float32."""
    projection = None
    if text_projection.is_projected(encoder):
        projection = encoder.params[1]
        encoder = text_projection.without_projection(encoder)
    arrays, saved = [], 0
    for name, x in describe_bert(encoder).weights.items():
        if name.endswith(("/kernel", "/embeddings")):
            num_inputs = 2 if "attention_output" in name else 1  # Axes: heads are apart.
            axes = -1 if name.endswith("/embeddings") else tuple(range(num_inputs))
            scale = np.maximum(np.abs(x).max(axes, keepdims=True), 1e-30) / 127
            x = np.round(x / scale) * scale
            if not name.startswith("pooled_dense"):  # No file has it.
                saved += 3 * x.size - 4 * scale.size
        arrays.append(x)
    encoder = encoder._replace(params=(arrays, encoder.params[1]))
    return text_projection.project(encoder, projection) if projection else encoder, saved


def start(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options)


def generate(encode, draw, tokens, z):
    text = encode.run(None, {"tokens": tokens})
    inputs = dict(zip(("words", "sentence", "word_mask"), text, strict=True))
    image = draw.run(["image"], {"z": z, **inputs})[0]
    return np.round((image + 1) * 127.5)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    folder = WORKDIR.value or demo_folder()
    model = load_networks(folder)
    encoder, generator = model.experiment.text_encoder, model.experiment.generator
    images, tokens = model.generate(CAPTIONS, seed=SEED).astype(int), model.tokenizer(CAPTIONS)
    z = np.asarray(make_noise(len(CAPTIONS), generator.z_dim, SEED, 0))
    data = build_generator(generator, to_storage(model.ema, "float32"), encoder.width)
    print(f"generator: {len(data) / 1e6:.2f} MB in float32; {len(CAPTIONS)} captions")
    draw, rows, encoders = start(data), [], {}
    rounded, saved = round_to_int8(encoder)
    for name, variant, dtype, less in (
        ("float32", encoder, np.float32, 0),
        ("float16", encoder, np.float16, 0),
        ("int8", rounded, np.float32, saved),
    ):
        data = build_text_encoder(variant, dtype=dtype)
        encoders[name] = start(data)
        away = np.abs(generate(encoders[name], draw, tokens, z) - images)
        megabytes = (len(data) - less) / 1e6
        rows.append((name, megabytes, away.max(), away.mean(), np.mean(away > 0)))
    header = ("text encoder", "MB", "largest difference of 255", "mean difference", "values moved")
    measure.print_table(header, rows)

    one = xmc_jax.load(folder, batch_size=1)
    seconds = measure.time_in_turns(
        [
            lambda: generate(encoders["float16"], draw, tokens[:1], z[:1]),
            lambda: one.generate(CAPTIONS[:1], seed=SEED),
        ],
        REPEATS.value,
    )
    rows = [("ONNX Runtime", seconds[0], seconds[1] / seconds[0]), ("JAX", seconds[1], 1.0)]
    measure.print_table(("one image", "seconds", "ratio"), rows)


if __name__ == "__main__":
    app.run(main)
