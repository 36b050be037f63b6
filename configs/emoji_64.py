"""Fluent Emoji at 64 px, for a small machine.

Command: python -m xmc_jax.train --config=configs/emoji_64.py --workdir=runs/emoji_64
Data: python -m xmc_jax.prepare --dataset=emoji (docs/data.md)
Cost, result: not run yet.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, one_shape_32


def get_config(arg: str = "") -> ConfigDict:
    """`one_shape_32` at twice the resolution and width; `arg` names an ablation row."""
    config = one_shape_32.get_config()
    config.data.name = "emoji"
    config.data.form = "sq64"
    config.text.num_tokens = 22  # The longest caption in English has as many.
    config.model.resolution = 64
    config.model.generator_width = 8
    config.model.region_resolution = 16  # As in the paper.
    config.eval.num_examples = 144  # Half of val; the other half gives the floor.
    config.eval.batch_size = 48
    return ablations.apply(config, arg)
