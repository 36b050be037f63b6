"""Fluent Emoji at 64 px, for a small machine: grown from 32 px.

Data: python -m xmc_jax.prepare --dataset=emoji (docs/data.md)
Command: python -m xmc_jax.train --config=configs/emoji_64.py --workdir=runs/emoji_64 \
    --init_from=runs/emoji_32 --init_partial
Cost, result: not run to its end. 1,600 steps took 18 minutes on one of two threads of a core; see
docs/results.md.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, emoji_32


def get_config(arg: str = "") -> ConfigDict:
    """`emoji_32` at twice the resolution; `arg` names an ablation row."""
    config = emoji_32.get_config()
    config.num_steps = 20_000
    config.data.form = "sq64"
    config.model.resolution = 64
    config.model.region_resolution = 16  # As in the paper.
    # The grown generator draws already, and the discriminator's last blocks begin anew: with the
    # rate of emoji_32 these first gradients destroyed the images within 800 steps.
    config.optimizer.generator_learning_rate = 1e-4
    config.augment.translation = config.augment.cutout = 0.0
    return ablations.apply(config, arg)
