"""Base of the ablation on shapes: small enough for three seeds of each row on two CPU cores.

Command: python -m benchmarks.ablation --folder=runs/ablation --jobs=2 --out=docs/ablation.png
Cost: 53 minutes on two CPU cores of an AMD EPYC: 24 runs, 4.4 minutes of one core each.
Result: docs/ablation.md.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, shapes_32


def get_config(arg: str = "") -> ConfigDict:
    """`shapes_32`, narrower and shorter; `arg` names an ablation row."""
    config = shapes_32.get_config()
    config.num_steps = 400
    config.model.generator_width = 4
    config.loss.image_d_weight = 1.0  # As in the paper, like the other weights.
    config.checkpoint_every_steps = 100  # Each checkpoint is evaluated.
    config.keep_checkpoints = 4
    config.sample_every_steps = 100
    config.optimizer.ema_decay = 0.98  # Averages over the last eighth of the run.
    config.eval.num_examples = 500
    return ablations.apply(config, arg)
