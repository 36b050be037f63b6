"""Fluent Emoji at 32 px, for two CPU cores.

Data: python -m xmc_jax.prepare --dataset=emoji --form=sq32 (docs/data.md)
Command: python -m xmc_jax.train --config=configs/emoji_32.py --workdir=runs/emoji_32
Cost: 73 minutes on one of two threads of a core, with other work beside it.
Result: of 32 captions a judge finds the right one for 0.81 of the images of unseen combinations
(real ones 0.97), and for 0.53 of those of unseen concepts (real ones 0.46). See docs/results.md.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, one_shape_32, shapes_32


def get_config(arg: str = "") -> ConfigDict:
    """`one_shape_32` for more kinds of pictures, and few of each; `arg` names an ablation row."""
    config = one_shape_32.get_config()
    config.num_steps = 20_000
    config.data.name = "emoji"
    config.data.form = "sq32"
    config.data.longest_caption_until = 0.0
    config.text.num_tokens = 22  # The longest caption in English has as many.
    config.model.generator_width = 8
    # The results are those of Adam, from which emoji_64 grew; with Muon retrieval is higher, see
    # docs/results.md, "Emoji with Muon".
    config.optimizer = shapes_32.get_config().optimizer
    config.optimizer.decay_from = 0.5
    config.loss.instance_noise = 0.3
    config.loss.r1_weight = 0.0
    config.augment.translation = 0.125
    config.augment.cutout = 0.5  # No colours: captions name them.
    config.sample_every_steps = 2000
    config.checkpoint_every_steps = 2000
    config.eval.num_examples = 144  # Half of val; the other half gives the floor.
    config.eval.batch_size = 48
    return ablations.apply(config, arg)
