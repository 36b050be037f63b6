"""COCO-2014 at 128 px: the released code's default.

Command: python -m xmc_jax.train --config=configs/coco_128.py --workdir=gs://BUCKET/coco_128
Cost, result: not run yet.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, coco_256


def get_config(arg: str = "") -> ConfigDict:
    """`coco_256` at half the resolution; `arg` names an ablation row."""
    config = coco_256.get_config()
    config.data.form = "sq128"
    config.model.resolution = 128
    return ablations.apply(config, arg)
