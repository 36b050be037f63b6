"""The judge of emoji: packaged weights, weight files, and training on drawn images."""

import functools
import hashlib
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.verbs import assert_refused
from xmc_jax.emoji import judge
from xmc_jax.emoji import judge_training as training
from xmc_jax.errors import UserError

DATA = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


VAL_ACCURACY = 0.444


@functools.cache
def init():
    return jax.jit(judge.init_towers)(jax.random.key(0))


@pytest.fixture(scope="module")
def packaged():
    return judge.load_judge()


def test_the_packaged_weights(packaged, rng):
    data = judge.PACKAGED.read_bytes()
    assert packaged.fingerprint == hashlib.sha256(data).hexdigest() and len(data) < 600e3
    command = packaged.metadata["command"]
    assert command.startswith("python -m xmc_jax.emoji.train_judge") and "hold_out" not in command
    captions = ["a red apple", "a blue square", "a red apple"]
    texts = packaged.embed_captions(captions)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(texts[0], texts[2])
    # One judge for all resolutions: an image that is enlarged without smoothing is the same.
    small = jnp.asarray(rng.uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    embed = jax.jit(packaged.embed_images)
    one, other = (np.asarray(embed(packaged.params, x)) for x in (small, large))
    assert one.shape == (2, texts.shape[1]) and np.sum(one[0] * other[0]) > 0.9


def test_the_packaged_judge_knows_colours(packaged):
    """Discs on white, far from the images it was trained on."""
    y, x = np.mgrid[:32, :32] - 15.5
    disc = (x**2 + y**2 < 144)[..., None]
    colours = {"red": (1, -1, -1), "green": (-0.5, 0.6, -0.5), "blue": (-0.8, -0.2, 1)}
    images = jnp.asarray([np.where(disc, c, 1.0) for c in colours.values()], jnp.float32)
    texts = packaged.embed_captions([f"a {name} circle" for name in colours])
    cosines = np.asarray(packaged.embed_images(packaged.params, images)) @ texts.T
    np.testing.assert_array_equal(cosines.argmax(axis=1), range(3))


@pytest.mark.long  # It encodes 800 captions.
@pytest.mark.skipif(not (DATA / "emoji" / "sq64").exists(), reason="emoji are not prepared")
def test_the_packaged_judge_on_real_images(packaged):
    """`python -m xmc_jax.emoji.train_judge` reports the same number."""
    examples = training.read_examples("val", str(DATA), judge.load_sentence_encoder())
    accuracy = training.measure(packaged.params, examples, np.arange(len(examples.ids)))
    assert accuracy == pytest.approx(VAL_ACCURACY, abs=0.005)


def test_wrong_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "judge.npz"
    encoder = judge.SentenceEncoder(lambda captions: None, "f" * 64)
    monkeypatch.setattr(judge, "load_sentence_encoder", lambda: encoder)
    with pytest.raises(UserError, match="emoji.train_judge writes one"):
        judge.load_judge(path)
    with pytest.raises(UserError, match="does not hold a judge .*text_encoder of another version"):
        judge.load_judge()
    whole = judge.PACKAGED.read_bytes()
    for wrong in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="does not hold a judge"):
            judge.load_judge(path)
    metadata = np.frombuffer(json.dumps({"text_encoder": "f" * 64}).encode(), np.uint8)
    np.savez(path, metadata=metadata)
    with pytest.raises(UserError, match="arrays of other names"):
        judge.load_judge(path)
    params = init()
    judge.save_judge(path, params, encoder, "c")
    loaded = judge.load_judge(path)
    assert loaded.metadata["command"] == "c"
    halved = jax.tree.map(lambda p: np.float32(np.float16(p)), params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, loaded.params, halved)))


# Training


def make_examples(count, captions=2):
    """Images of one colour each; sentences are drawn."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(-1, 1, (count, 1, 1, 3)).astype(np.float32)
    images = np.tile(colours, (1, judge.SIDE, judge.SIDE, 1))
    texts = [f"caption {i}" for i in range(captions * count)]
    sentences = rng.normal(size=(len(texts), judge.TEXT_WIDTH)).astype(np.float32)
    counts = np.full(count, captions)
    return training.Examples([], images, texts, sentences, np.cumsum(counts) - counts, counts)


def test_captions_are_those_of_the_image(rng):
    examples = make_examples(5, captions=3)
    indices = np.array([4, 0, 2])
    drawn = np.stack([examples.draw_captions(indices, rng) for _ in range(50)])
    assert [set(column) for column in drawn.T] == [{12, 13, 14}, {0, 1, 2}, {6, 7, 8}]


def test_concepts_are_held_out_whole():
    codes = [f"{code}{tone}" for code in range(1100, 1300) for tone in ("", "-1f3fb", "-1f3ff")]
    texts = [f"a thing {code}" for code in codes]
    hearts = {"2764": "a red heart", "1f499": "a blue heart", "1f49a": "a green heart"}
    ones = np.ones(len(codes) + len(hearts), int)
    texts, blank = [*texts, *hearts.values()], np.zeros((len(ones), 0), np.float32)
    images = np.zeros((len(ones), judge.SIDE, judge.SIDE, 3), np.float32)
    held_out = training.hold_out(
        training.Examples([*codes, *hearts], images, texts, blank, np.arange(len(ones)), ones)
    )
    concepts = held_out[: len(codes)].reshape(-1, 3)
    assert (concepts == concepts[:, :1]).all() and 0.03 < concepts.mean() < 0.2
    assert len(set(held_out[len(codes) :])) == 1


def test_augmented_images_stay_on_white_and_keep_their_place():
    """Their strengths aside, a white image stays white, and a disc in the middle stays there."""
    y, x = np.mgrid[:32, :32] - 15.5
    disc = np.where((x**2 + y**2 < 64)[..., None], -1.0, 1.0) * np.ones((64, 1, 1, 3))
    images = jnp.asarray(np.concatenate([np.ones_like(disc), disc]), jnp.float32)
    found = np.asarray(jax.jit(training.augment)(images, jax.random.key(0)))
    assert found.shape == images.shape and len(np.unique(found[:, 0, 0, 0])) == len(images)
    means = found.mean(axis=0), found[:64].mean(axis=0), found[64:].mean(axis=0)
    np.testing.assert_allclose(means[1], 1, atol=0.15)
    np.testing.assert_allclose(means[2][[0, -1]], 1, atol=0.15)
    np.testing.assert_allclose(means[2][15:17, 15:17], -1, atol=0.15)
    places = np.argwhere(found[64:, ..., 0] < 0)[:, 1:].mean(axis=0)
    np.testing.assert_allclose(places, 15.5, atol=0.5)


def test_loss_of_towers_that_know_nothing():
    """All cosines are equal: each of n images guesses among n captions."""
    params = jax.tree.map(jnp.zeros_like, init())
    images, sentences = jnp.zeros((6, 32, 32, 3)), jnp.ones((6, judge.TEXT_WIDTH))
    loss = jax.jit(training._loss)(params, images, sentences, jax.random.key(0))
    np.testing.assert_allclose(loss, np.log(6), rtol=1e-6)


def test_measures_the_share_of_captions_that_are_found(monkeypatch):
    """In place of the towers, images and captions that are equal for half of the examples."""
    examples, indices = make_examples(40), np.arange(40)
    points = np.random.default_rng(1).normal(size=(40, 16))

    class Towers:
        def apply(self, params, sentences, method):
            return jnp.asarray(
                np.repeat(np.where(np.arange(40)[:, None] < 20, points, -points), 2, axis=0)
            )

    monkeypatch.setattr(training, "Towers", Towers)
    monkeypatch.setattr(training, "embed_images", lambda params, images: jnp.asarray(points))
    assert training.measure({}, examples, indices) == 0.5


@pytest.mark.long  # The weights that are shipped are tested above.
def test_training_is_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr(training, "_BATCH_SIZE", 8)
    examples, indices = make_examples(12), np.arange(12)
    first, again, other = (training.train(examples, indices, 60, seed) for seed in (0, 0, 1))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, first, other)))
    sentences = examples.sentences[examples.starts]
    cosines = judge.Towers().apply(first, examples.images, sentences)
    loss = optax.softmax_cross_entropy_with_integer_labels(cosines, jnp.arange(12)).mean()
    assert loss < np.log(12)


def test_the_command_refuses_mistakes(tmp_path, run_verb):
    assert_refused(run_verb("emoji.train_judge"), "--out is missing")
    assert_refused(run_verb("emoji.train_judge", f"--out={tmp_path}/no/x.npz"), "no folder")
