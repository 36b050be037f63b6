"""Procedural shapes at 64 px, for a GPU, or for a CPU with much time.

Command: python -m xmc_jax.train --config=configs/shapes_64.py --workdir=runs/shapes_64
Cost, result: not run yet.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, shapes_32


def get_config(arg: str = "") -> ConfigDict:
    """`shapes_32` at twice the resolution; `arg` names an ablation row."""
    config = shapes_32.get_config()
    config.num_steps = 20_000
    config.batch_size = 64
    config.d_steps = 2  # As in the paper.
    config.data.form = "sq64"
    config.model.resolution = 64
    config.model.generator_width = 16
    config.model.discriminator_width = 32
    config.model.region_resolution = 16  # As in the paper.
    config.sample_every_steps = 1000
    config.checkpoint_every_steps = 1000
    config.loss.image_d_weight = 1.0  # As in the paper, like the next three fields.
    config.optimizer.generator_learning_rate = 1e-4
    config.optimizer.discriminator_learning_rate = 4e-4
    config.optimizer.ema_decay = 0.999
    return ablations.apply(config, arg)
