"""shapes_scorer.py: the shipped weights on renders that no training saw, and their file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.verbs import assert_refused
from xmc_jax import images
from xmc_jax.errors import UserError
from xmc_jax.shapes import scenes, scorer
from xmc_jax.shapes import train_scorer as training
from xmc_jax.shapes.accuracy import ATTRIBUTES, ParsedScene, count_claims, summarise

SCORER = scorer.load_scorer()


def accuracy(split, resolution, strength, num_examples=150):
    pictures, forms = training.degraded_examples(split, resolution, strength, num_examples)
    return summarise(count_claims(SCORER.read(pictures), forms))


@pytest.mark.parametrize("split", ["val", "test_comp"])
@pytest.mark.parametrize("resolution", [32, 64])
def test_shipped_weights_read_degraded_renders(split, resolution):
    """`python -m xmc_jax.shapes.train_scorer` states 99 % on more of them."""
    measured = accuracy(split, resolution, min(training.MEASURED_STRENGTHS))
    assert set(measured) == set(ATTRIBUTES)
    assert all(a.value >= 0.98 for a in measured.values()), measured


def test_hopeless_pictures_are_misread():
    assert accuracy("val", 32, 3.0, 60)["object"].value < 0.8


def test_what_is_where():
    items = (
        scenes.SceneObject("heart", "cyan", "small", 2, (0.1, -0.1)),
        scenes.SceneObject("square", "red", "large", 6, (0.0, 0.0)),
    )
    (scene,) = SCORER.read(scenes.render(scenes.Scene("black", items), 64)[None])
    assert scene.background == "black"
    assert [o[:3] for o in scene.objects] == [item[:3] for item in items]
    np.testing.assert_allclose([o[3:] for o in scene.objects], [(5 / 6, 1 / 6), (1 / 6, 5 / 6)])


@pytest.mark.parametrize("background", scenes.BACKGROUNDS)
def test_empty_pictures_hold_nothing(background):
    (scene,) = SCORER.read(scenes.render(scenes.Scene(background, ()), 32)[None])
    assert scene == ParsedScene(background, ())


def test_batches_do_not_matter():
    pictures, _ = training.degraded_examples("val", 32, 1.0, 120)
    whole = SCORER.read(pictures)
    parts = [scene for start in (0, 7, 60) for scene in SCORER.read(pictures[start : start + 7])]
    assert parts == [*whole[:14], *whole[60:67]]
    assert SCORER.read(pictures[:0]) == []


def test_a_shape_without_even_odds_is_none():
    names = scorer.Names(("circle", "star"), ("red",), ("small",), ("black",))
    logits = scorer.Logits(
        present=np.array([1.0] * 3 + [-1.0] * 6),
        shape=np.array([[0.0, 0.0], [0.0, 5.0], [-1.0, -2.0]] + [[9.0, 0.0]] * 6),
        colour=np.zeros((9, 1)),
        size=np.zeros((9, 1)),
        background=np.zeros(1),
    )
    three = names._replace(shapes=("circle", "star", "ring"))
    seen = scorer._scene(logits, names).objects
    assert [o.shape for o in seen] == ["circle", "star", "circle"]
    unsure = logits._replace(shape=np.pad(logits.shape, ((0, 0), (0, 1))))
    assert [o.shape for o in scorer._scene(unsure, three).objects] == [None, "star", "ring"]


def test_the_weight_file_says_how_it_was_made():
    assert scorer.PACKAGED.stat().st_size < 1e6
    assert SCORER.metadata["command"].startswith("python -m xmc_jax.shapes.train_scorer")
    assert SCORER.metadata["names"] == json.loads(json.dumps(training.names()._asdict()))
    assert len(SCORER.fingerprint) == 64


def test_save_and_load(tmp_path):
    names = training.names()
    blank = jnp.zeros((1, 32, 32, 3))
    params = scorer.create_network(names).init(jax.random.key(0), blank)
    path, again = tmp_path / "a.npz", tmp_path / "b.npz"
    for file in (path, again):
        scorer.save_scorer(file, params, names, {"command": "x"})
    assert path.read_bytes() == again.read_bytes()  # No dates in it.
    loaded = scorer.load_scorer(path)
    assert loaded.metadata["command"] == "x"
    halved = jax.tree.map(lambda p: np.float32(np.float16(p)), params)
    pictures, _ = training.degraded_examples("val", 32, 0.5, 5)
    assert loaded.read(pictures) == scorer.make_reader(halved, names)(pictures)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "scorer.npz"
    with pytest.raises(UserError, match="train_shapes_scorer writes one"):
        scorer.load_scorer(path)
    whole = scorer.PACKAGED.read_bytes()
    for wrong in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="does not hold a scorer"):
            scorer.load_scorer(path)
    np.savez(path, metadata=np.frombuffer(json.dumps(dict(SCORER.metadata)).encode(), np.uint8))
    with pytest.raises(UserError, match="other names or shapes"):
        scorer.load_scorer(path)
    np.savez(path, metadata=np.array([{}], object))
    with pytest.raises(UserError, match="does not hold a scorer"):
        scorer.load_scorer(path)


# Training


def test_labels():
    scene = scenes.make_scene("train", 3, narrative=True)
    labels = training.labels_of([scene])
    names = training.names()
    for item in scene.objects:
        told = (kind[0, item.cell] for kind in labels[1:4])
        words = [kind[i] for kind, i in zip(names, told, strict=False)]
        assert words == [item.shape, item.colour, item.size]
    assert labels.present.sum() == len(scene.objects)
    assert names.backgrounds[labels.background[0]] == scene.background


def test_loss_of_perfect_and_of_blank_logits():
    labels = training.labels_of([scenes.make_scene("train", i) for i in range(4)])
    names = training.names()

    def hot(truth, kinds):
        return 100.0 * np.eye(len(kinds), dtype=np.float32)[truth]

    perfect = scorer.Logits(
        np.where(labels.present, 100.0, -100.0).astype(np.float32),
        *map(hot, labels[1:], names),
    )
    assert scorer.scorer_loss(perfect, labels) < 1e-6
    blank = jax.tree.map(np.zeros_like, perfect)
    expected = np.log(2) + sum(np.log(len(kind)) for kind in names)
    np.testing.assert_allclose(scorer.scorer_loss(blank, labels), expected, rtol=1e-5)


def test_training_is_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr(training, "_BATCH_SIZE", 4)
    monkeypatch.setattr(training, "_RESOLUTIONS", (32,))
    first, again, other = (training.train(20, seed) for seed in (0, 0, 1))
    equal = jax.tree.map(np.array_equal, first, again)
    assert all(jax.tree.leaves(equal))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, first, other)["params"])[1::2])
    start = scorer.create_network(training.names()).init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    pictures, labels = training.make_batch(0, 0)
    pictures = jnp.asarray(pictures)
    network = scorer.create_network(training.names())

    def loss(params):
        return scorer.scorer_loss(network.apply(params, images.from_uint8(pictures)), labels)

    assert loss(first) < loss(start)


def test_only_training_scenes_are_trained_on(monkeypatch):
    splits = []
    make_scene = scenes.make_scene

    def watch(split, index, **options):
        splits.append(split)
        return make_scene(split, index, **options)

    monkeypatch.setattr(scenes, "make_scene", watch)
    training.make_batch(0, 0)
    assert set(splits) == {"train"} and len(splits) == training._BATCH_SIZE


@pytest.mark.long
def test_the_command(tmp_path, run_verb):
    out = tmp_path / "scorer.npz"
    done = run_verb(
        "train_shapes_scorer", f"--out={out}", "--num_steps=20", "--num_measured=10", "--seed=3"
    )
    assert done.returncode == 0, done.stderr
    assert "sha256" in done.stdout and "all_correct" in done.stdout and "ETA" in done.stderr
    assert scorer.load_scorer(out).metadata["command"].endswith("--num_steps=20 --seed=3")


def test_mistakes_of_the_command(tmp_path, run_verb):
    assert_refused(run_verb("train_shapes_scorer"), "--out is missing")
    assert_refused(run_verb("train_shapes_scorer", f"--out={tmp_path}/no/x.npz"), "no folder")
