"""COCO-2014 at 256 px: the paper's main experiment.

Command: python -m xmc_jax.train --config=configs/coco_256.py --workdir=gs://BUCKET/coco_256
Cost, result: not run yet.

Needs the data set (`python -m xmc_jax.prepare --dataset=coco`) and a network for BERT and VGG-19,
which are downloaded once; `text.encoder` and `loss.image_pretrained_weights` also take files.
"""

from ml_collections import ConfigDict

from xmc_jax.configs import ablations


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; `arg` names an ablation row, see `configs/ablations.py`."""
    config = ConfigDict()
    config.seed = 0  # For parameters, noise and the order of examples.
    config.num_steps = 323_000  # Generator updates: 1000 epochs of 82,783 images at batch 256.
    config.batch_size = 256  # Images per micro-batch, over all devices.
    config.d_steps = 2  # Discriminator updates per step, each on its own micro-batch.
    # Parts in which a micro-batch passes through the networks, to save memory. Losses stay those of
    # the whole micro-batch; batch normalisation uses the statistics of each part.
    config.accumulation_steps = 1
    config.remat = "elementwise"  # Activations to recompute: none, elementwise or blocks.

    config.log_every_steps = 100
    config.sample_every_steps = 2500  # Image grids of fixed captions.
    config.checkpoint_every_steps = 2500
    config.keep_checkpoints = 3  # The newest checkpoints; older ones are deleted.
    # If a loss or gradient is not finite, the run returns to its last checkpoint and skips the
    # steps up to the fault, at most this many times. 0: the run stops.
    config.max_nonfinite_skips = 0

    data = config.data = ConfigDict()
    data.name = "coco"
    data.form = "sq256"  # Prepared form: whole images squashed to 256x256; or original.
    data.eval_name = ""  # Data set for evaluation, in the same form; empty: data.name.
    data.flip = True  # Mirror images at random, as in the released code.
    data.crop = "squash"  # How images become square: squash, short_crop or center_crop.
    data.antialias = True  # NOTE(paper): the released code resizes without antialias.
    data.train_split = "train"
    data.eval_split = "val"
    # Distinct captions whose embeddings are kept on the host, the most recent ones; 0: the step
    # encodes every caption. Pays where captions repeat and the text encoder is slow.
    data.cached_captions = 0
    # Fraction of the run in which each image has its longest caption, which says most; 0: none.
    data.longest_caption_until = 0.0

    text = config.text = ConfigDict()
    text.encoder = "bert_base_en_uncased"  # A keras-hub preset, or a BERT folder.
    text.num_tokens = 17  # Word pieces per caption, with [CLS] and [SEP]; longer captions are cut.
    text.projection = 0  # Dimensions to which text is whitened and projected; 0: as it is.

    model = config.model = ConfigDict()
    model.resolution = 256
    model.generator_width = 96
    model.discriminator_width = 96
    model.z_dim = 128
    model.modulation = "attentional"  # Or self: only the sentence modulates the blocks.
    model.first_layer = "noise"  # Or noise_and_sentence, as the paper says but the code does not.
    model.sentence_scale = 1.0  # Factor of the sentence beside the noise, in the generator.
    model.contrastive_head = "none"  # Or linear, mlp: extra layers before contrastive losses.
    model.bn_group_size = 0  # Images that share batch statistics; 0: the whole batch.
    model.region_resolution = 16  # The word loss uses 16x16 regions.
    model.dtype = "bfloat16"  # Of convolutions. Parameters and losses are float32.

    loss = config.loss = ConfigDict()
    loss.sentence_weight = 1.0
    loss.word_weight = 1.0
    loss.image_d_weight = 1.0
    loss.image_pretrained_weight = 1.0
    loss.image_pretrained_network = "vgg19"  # NOTE(paper): resnet50 in the released code.
    loss.image_pretrained_weights = "imagenet"  # Keras downloads them once; or a file of them.
    loss.image_pretrained_resolution = 224  # Pixels; the network was trained at this size.
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
    loss.r1_every_steps = 10

    # Random changes of the images that the discriminator sees, against learning few of them by
    # heart (DiffAugment). Strengths are 0..1; 0: off. Choose none that makes captions wrong.
    augment = config.augment = ConfigDict()
    augment.translation = 0.0  # Farthest move, as a fraction of the side; 0.125 as published.
    augment.color = 0.0  # Fraction of the published ranges of brightness, saturation and contrast.
    augment.cutout = 0.0  # Side of a missing square, as a fraction of the side; 0.5 as published.

    optimizer = config.optimizer = ConfigDict()
    optimizer.name = "adam"  # Or muon, which orthogonalises the updates of kernels.
    optimizer.generator_learning_rate = 1e-4
    optimizer.discriminator_learning_rate = 4e-4
    optimizer.beta1 = 0.5
    optimizer.beta2 = 0.999
    optimizer.ema_decay = 0.999
    optimizer.clip_norm = 0.0  # Longest gradient of each player; longer ones are cut. 0: off.
    # Fraction of the run in which learning rates rise from 0, by a line; 0: they begin as they are.
    optimizer.warmup_until = 0.0
    # Fraction of the run after which learning rates fall to 0, by a cosine; 1: they stay.
    optimizer.decay_from = 1.0

    evaluation = config.eval = ConfigDict()
    evaluation.num_examples = 30_000  # Captions; each generates one image.
    evaluation.batch_size = 256
    evaluation.seed = 0  # For the choice of captions and the noise.
    # Path of pt_inception-2015-12-05-6726825d.pth (pytorch-fid); empty: no fid, is, kid, prdc.
    evaluation.inception_weights = ""
    evaluation.clip = ""  # Name or folder of a keras-hub CLIP, for clip_score, cmmd and others.
    evaluation.detector = ""  # Name or folder of a keras-hub D-FINE of COCO: soa, compose.
    evaluation.dinov2 = ""  # Name or folder of a keras-hub DINOv2, for fd_dinov2 and prdc_dinov2.
    evaluation.every_steps = 0  # Also evaluate in the training job; 0: never.
    evaluation.best_metric = ""  # Metric that selects the best checkpoint, e.g. fd_vgg16.

    return ablations.apply(config, arg)
