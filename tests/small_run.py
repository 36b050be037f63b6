"""The folder of a small run that has a checkpoint, made without training; with a small BERT."""

import dataclasses
import math

import jax
import numpy as np

from tests import bert
from xmc_jax import files
from xmc_jax.configs import shapes_32
from xmc_jax.experiment import create_experiment
from xmc_jax.frozen import text_projection, whitening
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import write_config
from xmc_jax.run.folder import checkpoints_dir, text_projection_path
from xmc_jax.run.records import append_metrics

STEP = 3
METRICS = [
    {"kind": "train", "step": STEP, "d/loss": 1.0},
    {"kind": "eval", "step": 1, "metric": "fd_vgg16", "protocol": "p", "value": 999.0},
    {"kind": "eval", "step": STEP, "metric": "fd_vgg16", "protocol": "val", "value": 12.345},
]


def make(folder, form="sq32", whole=False):
    """Writes the run into a folder, and gives the run's folder. Its text is projected.

    Weights are drawn, so that pictures differ by caption and noise. Unless `whole`, the checkpoint
    holds what images are drawn with alone, and numbers for all the rest.
    """
    encoder = bert.write(folder / "bert", bert.weights(np.random.default_rng(0)))
    config = shapes_32.get_config()
    config.data.form = form
    config.text.encoder, config.text.num_tokens = encoder, 8
    config.model.generator_width = config.model.discriminator_width = 1
    config.model.z_dim = 4
    config.text.projection = 3
    workdir = folder / "run"
    files.ensure_writable(workdir)
    write_config(workdir, config)
    text_projection.write(text_projection_path(workdir), draw_projection(3))
    others = {"num_samples": 7, "seed": 0, "weights": None}
    append_metrics(workdir, [others | record for record in METRICS])
    abstract = create_experiment(config, workdir, training=False).abstract_state()
    if not whole:
        rest = {field.name for field in dataclasses.fields(abstract)} - {"step", "ema"}
        abstract = abstract.replace(**dict.fromkeys(rest, abstract.step))
    with Checkpoints(checkpoints_dir(workdir)) as checkpoints:
        checkpoints.save(STEP, draw_state(abstract))
    return workdir


def draw_projection(width):
    """A projection of the small BERT's embeddings."""
    rng, text_width = np.random.default_rng(2), bert.CONFIG["hidden_size"]
    shapes = 2 * ((text_width,), (text_width, width))
    return whitening.Projection(*(np.float32(rng.normal(size=shape)) for shape in shapes))


def draw_state(abstract):
    """A state of some training, by its shapes: nothing is compiled to initialise it."""
    rng = np.random.default_rng(1)

    def draw(path, x):
        values = rng.normal(size=x.shape) * 0.6 / math.sqrt(math.prod(x.shape[:-1]))
        if {jax.tree_util.DictKey("var"), jax.tree_util.GetAttrKey("nu")} & set(path):
            values = 1 + np.abs(values)
        if np.issubdtype(x.dtype, np.integer):
            values = np.full(x.shape, STEP)
        return jax.device_put(values.astype(x.dtype), x.sharding)

    return jax.tree_util.tree_map_with_path(draw, abstract)
