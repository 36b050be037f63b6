"""What `device_run` takes along to a machine without Keras, and what comes back from it.

    python -m benchmarks.device_pack --config=configs/shapes_64.py --pack=pack.npz
    python -m benchmarks.device_pack --pack=pack.npz --state=state --workdir=runs/shapes_64

The pack has the config, the text encoder as a compiled program with its weights in float16 (45 MB),
and the word pieces of the words of captions. The second command makes the folder of a run from a
state, for `evaluate`, `sample` and `export`.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from benchmarks import device_run
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.frozen import text_projection
from xmc_jax.frozen.text_encoder import load_text_encoder
from xmc_jax.frozen.whitening import Projection
from xmc_jax.parallel import startup
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import write_config
from xmc_jax.run.folder import checkpoints_dir, text_projection_path
from xmc_jax.shapes.captions import make_example
from xmc_jax.shapes.forms import parse_form
from xmc_jax.train_state import create_train_state

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment to pack.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run to make from --state.")

_NUM_SEEN = 3000  # Examples that have all words of captions.


def pack(config, path):
    """Writes the file that `device_run` reads."""
    encoder = load_text_encoder(config.text.encoder)
    tokenizer = Tokenizer(encoder.vocabulary_file, config.text.num_tokens, encoder.lowercase)
    layout = parse_form(config.data.form).layout
    captions = [c.text for i in range(_NUM_SEEN) for c in make_example("train", i, layout).captions]
    words = sorted({w for text in captions for w in text.replace(",", " ,").split()})
    pieces = [row[row != 0][1:-1].tolist() for row in tokenizer(words)]
    leaves, structure = jax.tree.flatten(encoder.params)

    def encode(leaves, tokens):
        return encoder.apply(jax.tree.unflatten(structure, leaves), tokens)

    shape = device_run.TEXT_BATCH, config.text.num_tokens
    export = jax.export.export(jax.jit(encode), platforms=("cpu", "cuda", "tpu"))
    program = export(leaves, jax.ShapeDtypeStruct(shape, jnp.int32)).serialize()
    about = {
        "config": config.to_dict(),
        "words": dict(zip(words, pieces, strict=True)),
        "ends": tokenizer(["a"])[0, [0, 2]].tolist(),
        "types": [str(x.dtype) for x in leaves],
    }
    if not np.array_equal(device_run.tokenize(captions, about), tokenizer(captions)):
        raise ValueError("captions are not the word pieces of their words")
    arrays = {f"leaf_{i}": _half(np.asarray(x)) for i, x in enumerate(leaves)}
    program = np.frombuffer(program, np.uint8)
    np.savez(path, about=json.dumps(about), program=program, **arrays)
    print(f"wrote {path}: {pathlib.Path(path).stat().st_size / 1e6:.1f} MB")


def _half(x):
    return x.astype(np.float16) if x.dtype == np.float32 else x


def unpack(path, state_folder, workdir):
    """Makes the folder of a run."""
    about, *_ = device_run.read_pack(path)
    config = ConfigDict(about["config"])
    text_width = load_text_encoder(config.text.encoder).width
    width, projection = config.text.projection or text_width, None
    if config.text.projection:
        described = text_projection.describe(text_width, width)
        projection = Projection(*(np.zeros(x.shape, x.dtype) for x in described))
    create = functools.partial(
        create_train_state, **device_run.make_players(config), text_width=width
    )
    state = jax.jit(create)(jax.random.key(0))
    state, projection = device_run.load_state(state_folder, state, projection)
    write_config(workdir, config)
    if projection is not None:
        text_projection.write(text_projection_path(epath.Path(workdir)), projection)
    with Checkpoints(checkpoints_dir(workdir)) as checkpoints:
        checkpoints.save(int(state.step), jax.tree.map(jnp.asarray, state))
    print(f"{workdir} is at step {int(state.step)}")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    startup.hide_missing_tpu()
    if WORKDIR.value:
        unpack(device_run.PACK.value, device_run.STATE.value, WORKDIR.value)
    else:
        pack(CONFIG.value, device_run.PACK.value)


if __name__ == "__main__":
    flags.mark_flags_as_mutual_exclusive(["config", "workdir"], required=True)
    app.run(main)
