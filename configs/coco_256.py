"""COCO-2014 at 256 px: the paper's main experiment.

Command: python -m xmc_jax.train --config=configs/coco_256.py --workdir=gs://BUCKET/coco_256
Cost, result: not run yet.

The text encoder and VGG-19 need weights: see `text.encoder` and `loss.image_pretrained_weights`.
"""

from ml_collections import ConfigDict

from configs import ablations


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; `arg` names an ablation row, see `configs/ablations.py`."""
    config = ConfigDict()
    config.seed = 0  # Of parameters, noise and the order of examples.
    config.num_steps = 323_000  # Generator updates: 1000 epochs of 82,783 images at batch 256.
    config.batch_size = 256  # Images of one micro-batch, over all devices.
    config.d_steps = 2  # Discriminator updates, each on its own micro-batch, a step.
    config.accumulation_steps = 1  # Parts in which a micro-batch passes through the networks.
    config.remat = "elementwise"  # What is computed again to save memory; also none, blocks.

    config.log_every_steps = 100
    config.sample_every_steps = 2500  # Grids of fixed captions.
    config.checkpoint_every_steps = 2500
    config.keep_checkpoints = 3  # The newest ones.
    # Losses or gradients that are not finite: times that the run goes back to its last checkpoint
    # and leaves the steps to the fault out; 0: it stops at once.
    config.max_nonfinite_skips = 0

    data = config.data = ConfigDict()
    data.name = "coco"
    data.form = "sq256"  # Of the prepared data: whole images squashed; or original.
    data.eval_name = ""  # Data set of evaluation, in the same form; data.name if empty.
    data.flip = True  # As the released code does.
    data.crop = "squash"  # Or short_crop, center_crop: how an image becomes square.
    data.antialias = True  # NOTE(paper): the released code resizes without.
    data.train_split = "train"
    data.eval_split = "val"

    text = config.text = ConfigDict()
    text.encoder = "bert_base_en_uncased"  # A keras-hub preset, or a BERT folder.
    text.num_tokens = 17  # Longest caption in word pieces, with [CLS] and [SEP].

    model = config.model = ConfigDict()
    model.resolution = 256
    model.generator_width = 96
    model.discriminator_width = 96
    model.z_dim = 128
    model.modulation = "attentional"  # Or self: the sentence alone modulates every block.
    model.contrastive_head = "none"  # Or linear, mlp: extra layers before the contrastive terms.
    model.bn_group_size = 0  # Images with batch statistics of their own; 0: the whole batch.
    model.region_resolution = 16  # Regions of the word loss: 16x16 positions.
    model.dtype = "bfloat16"  # Of convolutions; parameters and losses are float32.

    loss = config.loss = ConfigDict()
    loss.sentence_weight = 1.0
    loss.word_weight = 1.0
    loss.image_d_weight = 1.0
    loss.image_pretrained_weight = 1.0
    loss.image_pretrained_network = "vgg19"  # NOTE(paper): the released code has resnet50.
    loss.image_pretrained_weights = ""  # Path of vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5.
    loss.image_pretrained_resolution = 224  # Pixels: what the network was trained on.
    loss.contrastive_group_size = 0  # Images with negatives of their own; 0: the whole batch.

    optimizer = config.optimizer = ConfigDict()
    optimizer.generator_learning_rate = 1e-4
    optimizer.discriminator_learning_rate = 4e-4
    optimizer.beta1 = 0.5
    optimizer.beta2 = 0.999
    optimizer.ema_decay = 0.999

    evaluation = config.eval = ConfigDict()
    evaluation.num_examples = 30_000  # Captions, each drawn once.
    evaluation.batch_size = 256
    evaluation.seed = 0  # Of the captions' choice and the noise.
    # pt_inception-2015-12-05-6726825d.pth, as pytorch-fid publishes it; empty: no fid, kid, is…
    evaluation.inception_weights = ""
    evaluation.clip = ""  # A CLIP of keras-hub to judge captions: its name or folder.
    evaluation.detector = ""  # A D-FINE of keras-hub, trained on COCO, to see objects: likewise.
    evaluation.every_steps = 0  # Also measured in training, on its devices; 0: never.
    evaluation.best_metric = ""  # By which the best checkpoint stays, e.g. fd_vgg16; empty: none.

    return ablations.apply(config, arg)
