"""Procedural shapes at 128 px with a third of the paper's width, for one accelerator or more.

Command: python -m xmc_jax.train --config=configs/shapes_128.py --workdir=runs/shapes_128
Cost, result: not run yet.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, shapes_64


def get_config(arg: str = "") -> ConfigDict:
    """`shapes_64` at twice the resolution; `arg` names an ablation row."""
    config = shapes_64.get_config()
    config.num_steps = 50_000
    config.batch_size = 128
    config.data.form = "sq128"
    config.model.resolution = 128
    config.model.generator_width = 32
    config.model.discriminator_width = 32
    config.model.z_dim = 128
    config.model.dtype = "bfloat16"
    return ablations.apply(config, arg)
