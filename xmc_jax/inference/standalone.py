"""Generates images of captions with an exported model, without the package that exported it.

    python generate.py --caption="a red circle above a blue square"      # writes picture_0.png …

or, from Python:

    from generate import load
    generate = load(".")
    images = generate(["a red circle above a blue square"], seed=0)      # uint8 [n, h, w, 3]

Needs this folder and the Python packages jax, numpy and safetensors. The tokenizer is wordpiece.py.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import struct
import zlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from wordpiece import WordPiece


def load(folder="."):
    """Reads and verifies the folder.

    Returns the function ``generate(captions, seed=0) -> images``, uint8 [n, h, w, 3].
    """
    folder = pathlib.Path(folder)
    model = json.loads(read(folder / "model.json"))

    def verified(name):
        data = read(folder / name)
        if hashlib.sha256(data).hexdigest() != model["sha256"][name]:
            raise SystemExit(f"error: {folder / name} is not the file that was exported")
        return data

    split = WordPiece(
        verified("vocab.txt").decode().split("\n"), model["text_encoder"]["lowercase"]
    )
    start, end = split.ids["[CLS]"], split.ids["[SEP]"]
    program = jax.export.deserialize(bytearray(verified("program.stablehlo")))
    weights, text_encoder = (
        jax.device_put(safetensors.numpy.load(verified(f"{name}.safetensors")))
        for name in ("weights", "text_encoder")
    )

    def generate(captions, seed=0):
        tokens = np.zeros((len(captions), model["num_tokens"]), np.int32)
        for row, caption in zip(tokens, captions, strict=True):
            if not (pieces := split(caption)):
                raise SystemExit("error: a caption is empty; write what the image should show")
            found = [start, *pieces[: len(row) - 2], end]
            row[: len(found)] = found
        z = noise(len(captions), model["z_dim"], seed)
        return np.asarray(program.call(weights, text_encoder, tokens, z))

    return generate


def read(path):
    """The contents of a file; a line and the end if there is no such file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SystemExit(f"error: cannot read {path}: {error.strerror}; copy it again") from error


@functools.partial(jax.jit, static_argnums=(0, 1))
def noise(count, z_dim, seed):
    """Standard normal noise; a row depends only on the seed and its index."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
    return jax.vmap(lambda k: jax.random.normal(k, (z_dim,)))(keys)


def encode_png(pixels):
    """The contents of a PNG file with an RGB image."""
    h, w, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def main():
    """Generates the images that the command line asks for."""
    parser = argparse.ArgumentParser(description="Generates images of captions.")
    parser.add_argument("--caption", action="append", required=True, help="may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal images")
    parser.add_argument("--out", default="picture", help="images go to OUT_0.png, OUT_1.png …")
    options = parser.parse_args()
    if not -(2**31) <= options.seed < 2**31:
        parser.error(f"--seed={options.seed} is no int32: it lies between -2^31 and 2^31")
    images = load(pathlib.Path(__file__).parent)(options.caption, options.seed)
    pathlib.Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        pathlib.Path(f"{options.out}_{index}.png").write_bytes(encode_png(image))


if __name__ == "__main__":
    main()
