"""A small BERT with random weights, as a folder in Hugging Face's format."""

import json
import re

import numpy as np
from safetensors.numpy import save_file

from xmc_jax.shapes.captions import make_example

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "circle", "##s"]
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 8,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": len(VOCABULARY),
}
BLOCK = ("attention.self.query", "attention.self.key", "attention.self.value")
BLOCK += ("attention.output.dense", "intermediate.dense", "output.dense")


def weights(rng, config=CONFIG):
    """Random weights under the names of Hugging Face."""
    d, wide = config["hidden_size"], config["intermediate_size"]
    shapes = {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}
    positions, words = config["max_position_embeddings"], config["vocab_size"]
    for name, rows in (("word", words), ("position", positions), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, d)
    norms = ["embeddings.LayerNorm"]
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        for name in BLOCK:
            n_in = wide if name == "output.dense" else d
            n_out = wide if name == "intermediate.dense" else d
            shapes |= {f"{layer}{name}.weight": (n_out, n_in), f"{layer}{name}.bias": (n_out,)}
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    shapes |= {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}
    return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def write(folder, weights, config=CONFIG, vocabulary=VOCABULARY, prefix=""):
    """Writes the folder and returns its name."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    save_file({prefix + name: w for name, w in weights.items()}, folder / "model.safetensors")
    return str(folder)


def write_for_shapes(folder):
    """Writes a BERT that knows the words of shapes captions, to replace the packaged encoder."""
    captions = (c.text for i in range(200) for c in make_example("train", i).captions)
    words = {word for caption in captions for word in re.findall("[a-z]+", caption.lower())}
    vocabulary = [*VOCABULARY, *sorted(words - set(VOCABULARY))]
    config = CONFIG | {"vocab_size": len(vocabulary), "max_position_embeddings": 32}
    return write(folder, weights(np.random.default_rng(0), config), config, vocabulary)
