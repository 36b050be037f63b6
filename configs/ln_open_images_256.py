"""Localized Narratives on Open Images at 256 px: the paper's third experiment.

Command: python -m xmc_jax.train --config=configs/ln_open_images_256.py --workdir=gs://BUCKET/ln_open_images_256
Cost, result: not run yet.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, coco_256


def get_config(arg: str = "") -> ConfigDict:
    """`coco_256` on narratives; `arg` names an ablation row."""
    config = coco_256.get_config()
    config.data.name = "ln_open_images"
    config.text.num_tokens = 64  # Narratives are several sentences long.
    return ablations.apply(config, arg)
