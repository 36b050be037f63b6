"""One shape an image at 32 px: the default of launch/local.sh, for two CPU cores.

Command: python -m xmc_jax.train --config=configs/one_shape_32.py --workdir=runs/one_shape_32
Cost: 24:31 minutes on two CPU cores, two threads of one, half of them in a bad time of a virtual
machine; and a minute for the data set.
Result: in three seeds all_correct 0.77 to 0.78 (chance 0.01), shapes 0.81 to 0.84 (0.13), sizes
0.83 to 0.90 (0.01), places 0.60 to 0.68 (0.01), colours 0.99 to 1.00 (0.14), backgrounds 0.90 to
1.00 (0.33). See docs/results.md.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations, shapes_32


def get_config(arg: str = "") -> ConfigDict:
    """`shapes_32` with larger objects, one an image, and all that makes a small run learn sooner.

    `arg` names an ablation row.
    """
    config = shapes_32.get_config()
    config.num_steps = 10_000
    config.batch_size = 16  # Half of it, twice the updates: all_correct 0.28 for 0.19 in 6 minutes.
    config.log_every_steps = 200
    config.sample_every_steps = 1000
    config.checkpoint_every_steps = 1000
    config.data.form = "one_sq32"
    config.data.cached_captions = 20_000  # All of them.
    # Most of these state a place. From captions of which a fifth does, places are not learned: at
    # first each colour gets a place of its own, whatever the caption says, and it stays there.
    config.data.longest_caption_until = 0.25
    config.text.projection = 64
    config.model.generator_width = 4
    config.model.first_layer = "noise_and_sentence"
    config.model.sentence_scale = 3.0
    config.loss.image_d_weight = 0.0
    config.loss.instance_noise = 0.6
    # Without it, noise is ignored: all images of a caption are one.
    config.loss.variety_weight = 40.0
    config.loss.r1_weight = 1.0  # Without it, white and black backgrounds may turn gray.
    # With Muon the discriminator learns captions in half of the images, and would leave the
    # generator behind: its rate is the smaller one, and noise hides faults of a few grey levels.
    config.optimizer.name = "muon"
    config.optimizer.generator_learning_rate = 1.5e-3
    config.optimizer.discriminator_learning_rate = 5e-4
    config.optimizer.beta1 = 0.7
    config.optimizer.warmup_until = 0.1
    config.optimizer.decay_from = 0.5
    return ablations.apply(config, arg)
