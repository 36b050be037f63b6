"""Small networks with random weights, saved in keras-hub's own format."""

import string

import keras
import numpy as np

from tests.golden import make_dinov2 as dinov2
from xmc_jax.frozen import hub
from xmc_jax.frozen.clip import _MEAN, _STD
from xmc_jax.frozen.weights import zero_initializers

CLIP_SIDE = 32
CAPTION_LENGTH = 24
DETECTOR_SIDE = 64

# Letters, within a word and at its end, and the pieces of "red" after two merges.
MERGES = ["e d</w>", "r ed</w>"]
PIECES = [*string.ascii_lowercase, *(f"{c}</w>" for c in string.ascii_lowercase), ".</w>"]
PIECES += ["ed</w>", "red</w>", "<|startoftext|>", "<|endoftext|>"]


def write_clip(folder, *, seed=0, converter=True, pieces=PIECES):
    """Writes a CLIP with one layer per tower; returns the name of the folder."""
    keras.utils.set_random_seed(seed)
    sizes = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
    models = hub.keras_hub.models
    backbone = models.CLIPBackbone(
        models.CLIPVisionEncoder(patch_size=16, image_shape=(CLIP_SIDE, CLIP_SIDE, 3), **sizes),
        models.CLIPTextEncoder(
            vocabulary_size=len(PIECES),
            embedding_dim=16,
            max_sequence_length=CAPTION_LENGTH,
            **sizes,
        ),
        projection_dim=8,
    )
    backbone.save_to_preset(folder)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    models.CLIPTokenizer(vocabulary, MERGES).save_to_preset(folder)
    if converter:
        hub.keras_hub.layers.CLIPImageConverter(
            image_size=(CLIP_SIDE, CLIP_SIDE),
            scale=[1 / 255 / std for std in _STD],
            offset=[-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
            interpolation="bicubic",
        ).save_to_preset(folder)
    return str(folder)


def write_detector(folder, *, seed=0, num_classes=80):
    """Writes a D-FINE with two feature levels and one decoder layer; returns the folder's name."""
    keras.utils.set_random_seed(seed)
    backbone = hub.keras_hub.models.HGNetV2Backbone(
        stem_channels=[3, 4, 4],
        stackwise_stage_filters=[[4, 4, 8, 1, 1, 3]] + [[8, 4, 8, 1, 1, 3]] * 3,
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, False, False],
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        embedding_size=4,
        use_learnable_affine_block=False,
        hidden_act="relu",
        image_shape=(None, None, 3),
        out_features=["stage3", "stage4"],
    )
    detector = hub.keras_hub.models.DFineBackbone(
        backbone=backbone,
        decoder_in_channels=[8, 8],
        encoder_hidden_dim=8,
        num_denoising=100,
        num_labels=num_classes,
        hidden_dim=8,
        learn_initial_query=False,
        num_queries=6,
        anchor_image_size=(DETECTOR_SIDE, DETECTOR_SIDE),
        feat_strides=[16, 32],
        num_feature_levels=2,
        encoder_in_channels=[8, 8],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=8,
        num_encoder_layers=1,
        hidden_expansion=0.34,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=8,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=8,
        num_lqe_layers=1,
        out_features=["stage3", "stage4"],
        image_shape=(None, None, 3),
        seed=0,
    )
    rng = np.random.default_rng(seed)
    for variable in detector.trainable_variables:
        if variable.shape[-1:] == (num_classes,):  # New networks have low scores everywhere.
            variable.assign(2 * rng.normal(size=variable.shape))
    detector.save_to_preset(folder)
    return str(folder)


def write_dinov2(folder, *, state=None):
    """Writes the small DINOv2 with a state of the original's names; returns the folder's name."""
    state = dinov2.seeded_state() if state is None else state
    width, heads, trained_side = dinov2.WIDTH, dinov2.HEADS, dinov2.PLACES * dinov2.PATCH
    sizes = {
        "patch_size": dinov2.PATCH,
        "num_layers": dinov2.DEPTH,
        "hidden_dim": width,
        "num_heads": heads,
        "intermediate_dim": 4 * width,
        "image_shape": (trained_side, trained_side, 3),
        "position_embedding_shape": (trained_side, trained_side),
    }
    with zero_initializers():
        backbone = hub.keras_hub.models.DINOV2Backbone(**sizes)

    def assign(layer, name, state=state):
        """A dense layer, or one that normalises."""
        kernel, bias = layer.weights
        kernel.assign(state[f"{name}.weight"].T.reshape(kernel.shape))
        bias.assign(state[f"{name}.bias"].reshape(bias.shape))

    embeddings = backbone.embeddings
    embeddings.cls_token.assign(state["cls_token"])
    embeddings.mask_token.assign(state["mask_token"])
    embeddings.position_embeddings.assign(state["pos_embed"])
    kernel, bias = embeddings.patch_embeddings.projection.weights
    kernel.assign(state["patch_embed.proj.weight"].transpose(2, 3, 1, 0))
    bias.assign(state["patch_embed.proj.bias"])
    assign(backbone.layernorm, "norm")
    for i, layer in enumerate(backbone.encoder.layers):
        name, attention = f"blocks.{i}", layer.attention.attention
        split = {f"qkv.{x}": np.split(state[f"{name}.attn.qkv.{x}"], 3) for x in ("weight", "bias")}
        for j, part in enumerate(("query", "key", "value")):
            assign(getattr(attention, f"{part}_dense"), "qkv", {k: v[j] for k, v in split.items()})
        assign(attention.output_dense, f"{name}.attn.proj")
        assign(layer.mlp.fc1, f"{name}.mlp.fc1")
        assign(layer.mlp.fc2, f"{name}.mlp.fc2")
        assign(layer.norm1, f"{name}.norm1")
        assign(layer.norm2, f"{name}.norm2")
        layer.layer_scale1.lambda1.assign(state[f"{name}.ls1.gamma"])
        layer.layer_scale2.lambda1.assign(state[f"{name}.ls2.gamma"])
    backbone.save_to_preset(folder)
    return str(folder)
