"""Base of the ablation on shapes: small enough for three seeds of each row on two CPU cores.

Command: python -m benchmarks.ablation --folder=runs/ablation --jobs=2 --out=docs/ablation.png
Cost: 6 minutes of one CPU core for each of its runs, seven rows with three seeds.
Result: docs/ablation.md.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, one_shape_32, shapes_32


def get_config(arg: str = "") -> ConfigDict:
    """`one_shape_32` with Adam, the paper's optimizer, and shorter; `arg` names an ablation row."""
    config = one_shape_32.get_config()
    config.optimizer = shapes_32.get_config().optimizer
    config.optimizer.decay_from = 0.5
    config.loss.instance_noise = 0.3
    config.loss.variety_weight = 0.0
    config.loss.r1_weight = 0.0
    config.data.longest_caption_until = 0.0
    config.num_steps = 3000
    config.checkpoint_every_steps = 750  # Each checkpoint is evaluated.
    config.keep_checkpoints = 4
    config.sample_every_steps = 750
    config.eval.num_examples = 500
    return ablations.apply(config, arg)
