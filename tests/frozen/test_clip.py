"""The frozen CLIP against keras-hub's own calls, on a small preset with random weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests import presets
from xmc_jax import images
from xmc_jax.errors import UserError
from xmc_jax.frozen import hub
from xmc_jax.frozen.clip import load_clip
from xmc_jax.frozen.presets import resize

CAPTIONS = ["red", "A  Red\ncat.", "a caption with more letters than there is room for"]


@pytest.fixture(scope="module")
def preset(folder):
    return presets.write_clip(folder / "clip")


@pytest.fixture(scope="module")
def clip(preset):
    return load_clip(preset)


@pytest.fixture(scope="module")
def pixels():
    side = presets.CLIP_SIDE
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)


def cosines(clip, pixels, captions):
    """Of every image and every caption."""
    a = jax.jit(clip.embed_images)(clip.image_params, images.from_uint8(jnp.asarray(pixels)))
    b = jax.jit(clip.embed_captions)(clip.caption_params, clip.tokenize(captions))
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (
        b / np.linalg.norm(b, axis=1, keepdims=True)
    ).T


def test_embeddings_are_those_of_keras_hub(preset, clip, pixels):
    backbone = hub.keras_hub.models.CLIPBackbone.from_preset(preset)
    preprocessor = hub.keras_hub.models.CLIPPreprocessor.from_preset(
        preset,
        sequence_length=presets.CAPTION_LENGTH,
        to_lower=False,  # It would need TensorFlow.
    )
    lower = [caption.lower() for caption in CAPTIONS]
    inputs = preprocessor({"prompts": lower, "images": pixels.astype(np.float32)})
    inputs = {name: np.asarray(inputs[name]) for name in ("images", "token_ids")}
    with jax.numpy_rank_promotion("allow"):
        logits = backbone.predict(inputs, verbose=0)["vision_logits"]
    ours = cosines(clip, pixels, CAPTIONS)
    np.testing.assert_allclose(ours / 0.07, logits, rtol=1e-4, atol=1e-4)
    assert np.ptp(ours) > 0.01  # Images and captions differ.
    np.testing.assert_array_equal(clip.tokenize(CAPTIONS), inputs["token_ids"])


def test_tokens(clip):
    ids = {piece: number for number, piece in enumerate(presets.PIECES)}
    start, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
    rows = clip.tokenize(CAPTIONS)
    assert rows.shape == (3, presets.CAPTION_LENGTH) and rows.dtype == np.int32
    red = [start, ids["red</w>"], end]
    cat = [start, *(ids[piece] for piece in ("a</w>", "red</w>", "c", "a", "t</w>", ".</w>")), end]
    for row, pieces in zip(rows, (red, cat), strict=False):
        assert row.tolist() == pieces + [0] * (presets.CAPTION_LENGTH - len(pieces))
    assert rows[2][-1] == end  # Cut, but with an end.


@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize(("old", "new"), [(64, 224), (80, 224), (224, 32), (32, 32), (300, 224)])
def test_images_are_resized_as_by_pillow(rng, old, new, method):
    """To the last bit, also where a result lies between two integers."""
    pixels = rng.integers(0, 256, (1, old, old, 3), np.uint8)
    pixels[:, : old // 2] = np.where(pixels[:, : old // 2] > 127, 255, 0)
    ours = resize(images.from_uint8(jnp.asarray(pixels)), new, method)[0]
    filters = {"linear": Image.BILINEAR, "cubic": Image.BICUBIC}
    theirs = Image.fromarray(pixels[0]).resize((new, new), filters[method])
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_images_of_any_size(clip, pixels):
    large = np.stack([np.asarray(Image.fromarray(p).resize((96, 96))) for p in pixels])
    small = np.stack(
        [np.asarray(Image.fromarray(p).resize((32, 32), Image.BICUBIC)) for p in large]
    )
    np.testing.assert_allclose(
        cosines(clip, large, CAPTIONS), cosines(clip, small, CAPTIONS), atol=0.01
    )


def test_weights_are_arguments(clip, pixels):
    embed = jax.jit(clip.embed_images)
    inputs = images.from_uint8(jnp.asarray(pixels))
    doubled = jax.tree.map(lambda x: x, clip.image_params)
    doubled[0][-1] = 2 * doubled[0][-1]  # The projection.
    np.testing.assert_allclose(
        embed(doubled, inputs), 2 * embed(clip.image_params, inputs), rtol=1e-5
    )


def test_fingerprint_is_of_the_weights(folder, clip):
    again = load_clip(presets.write_clip(folder / "again"))
    other = load_clip(presets.write_clip(folder / "other", seed=1))
    assert clip.fingerprint == again.fingerprint != other.fingerprint
    assert (clip.name, again.name) == ("clip", "again")


def test_a_preset_without_converter_takes_pixels_as_the_original(folder, clip, pixels):
    plain = load_clip(presets.write_clip(folder / "plain", converter=False))
    np.testing.assert_allclose(
        cosines(plain, pixels, CAPTIONS), cosines(clip, pixels, CAPTIONS), atol=1e-5
    )


@pytest.mark.parametrize("text", ["", "{}"])
def test_a_damaged_converter_is_named(folder, text):
    preset = presets.write_clip(folder / "damaged")
    (Path(preset) / "image_converter.json").write_text(text)
    with pytest.raises(UserError, match="damaged' does not hold a CLIP: "):
        load_clip(preset)


def test_other_folders_are_refused(folder):
    with pytest.raises(UserError, match=r"eval\.clip='nowhere' is neither .* clip_vit_base"):
        load_clip("nowhere", field="config.eval.clip")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty' does not hold a CLIP"):
        load_clip(str(folder / "empty"))
    hub.keras_hub.models.BertBackbone(
        vocabulary_size=9, num_layers=1, num_heads=1, hidden_dim=2, intermediate_dim=2
    ).save_to_preset(folder / "bert")
    with pytest.raises(UserError, match="bert' does not hold a CLIP"):
        load_clip(str(folder / "bert"))


def test_the_vocabulary_of_another_network_is_refused(folder):
    larger = ["cat</w>", *presets.PIECES]
    with pytest.raises(UserError, match="58 pieces does not .* which has 57"):
        load_clip(presets.write_clip(folder / "larger", pieces=larger))
