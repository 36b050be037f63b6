"""The scorer: packaged weights on held-out renders, weight files, and training."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.verbs import assert_refused
from xmc_jax.errors import UserError
from xmc_jax.images import from_uint8
from xmc_jax.shapes import scenes, scorer
from xmc_jax.shapes import scorer_training as training
from xmc_jax.shapes.accuracy import ATTRIBUTES, ParsedScene, count_claims, summarise

SCORERS = {layout: scorer.load_scorer(path) for layout, path in scorer.PACKAGED.items()}
SCORER = SCORERS["full"]


def accuracy(split, resolution, strength, num_examples=150, layout="full"):
    images, forms = training.degraded_examples(split, resolution, strength, num_examples, layout)
    return summarise(count_claims(SCORERS[layout].read(images), forms))


@pytest.mark.parametrize("split", ["val", "test_comp"])
@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("layout", ["full", "one", "two"])
def test_packaged_weights_read_degraded_renders(split, resolution, layout):
    """`python -m xmc_jax.shapes.train_scorer` reports 99 % on a larger sample."""
    measured = accuracy(split, resolution, min(training.MEASURED_STRENGTHS), layout=layout)
    assert set(measured) == set(ATTRIBUTES) - ({"relation"} if layout == "one" else set())
    assert all(a.value >= 0.98 for a in measured.values()), measured


def test_reads_badly_degraded_images_worse():
    assert accuracy("val", 32, 3.0, 60)["object"].value < 0.8


def test_reads_objects_and_their_cells():
    items = (
        scenes.SceneObject("heart", "cyan", "small", 2, (0.1, -0.1)),
        scenes.SceneObject("square", "red", "large", 6, (0.0, 0.0)),
    )
    (scene,) = SCORER.read(scenes.render(scenes.Scene("black", items), 64)[None])
    assert scene.background == "black"
    assert [o[:3] for o in scene.objects] == [item[:3] for item in items]
    np.testing.assert_allclose([o[3:] for o in scene.objects], [(5 / 6, 1 / 6), (1 / 6, 5 / 6)])


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_finds_nothing_in_empty_images(layout):
    empty = [scenes.render(scenes.Scene(background, ()), 32) for background in scenes.BACKGROUNDS]
    found = SCORERS[layout].read(np.stack(empty))
    assert found == [ParsedScene(background, ()) for background in scenes.BACKGROUNDS]


@pytest.mark.parametrize("layout", ["one", "two"])
def test_counts_more_objects_than_its_scenes_have(layout):
    """A generator may: it must not look as if the count were right."""
    made = (scenes.make_scene("val", i, layout).objects[0] for i in range(1000))
    corners = {item.cell: item for item in made if item.cell in (0, 2, 6, 8)}
    for count in (2, 3, 4):
        objects = tuple(corners[cell] for cell in sorted(corners)[:count])
        image = scenes.render(scenes.Scene("gray", objects), 32, layout)
        (found,) = SCORERS[layout].read(image[None])
        assert [o[:3] for o in found.objects] == [o[:3] for o in objects]


def test_results_do_not_depend_on_batches():
    images, _ = training.degraded_examples("val", 32, 1.0, 120)
    whole = SCORER.read(images)
    parts = [scene for start in (0, 7, 60) for scene in SCORER.read(images[start : start + 7])]
    assert parts == [*whole[:14], *whole[60:67]]
    assert SCORER.read(images[:0]) == []


def test_a_shape_with_less_than_even_odds_is_none():
    shape = np.full((9, len(scenes.SHAPES)), -50.0)
    shape[0, :2] = 0.0  # Two shapes with probability 1/2 each.
    shape[1, 1] = 0.0  # One certain shape.
    shape[2, :3] = 0.0  # Three shapes with probability 1/3 each.
    logits = scorer.Logits(
        present=np.array([1.0] * 3 + [-1.0] * 6),
        shape=shape,
        colour=np.zeros((9, len(scenes.COLOURS))),
        size=np.zeros((9, len(scenes.SIZES))),
        background=np.zeros(len(scenes.BACKGROUNDS)),
    )
    assert [o.shape for o in scorer._scene(logits).objects] == ["circle", "square", None]


def test_the_weight_file_records_its_command():
    # The module had another name when this file was written, and one layout.
    assert SCORER.metadata["command"].endswith("train_shapes_scorer --num_steps=2400 --seed=0")
    for layout in ("one", "two"):
        expected = f"train_scorer --layout={layout} --num_steps=2400 --seed=0"
        assert SCORERS[layout].metadata["command"].endswith(expected)
    assert all(path.stat().st_size < 1e6 for path in scorer.PACKAGED.values())
    fingerprints = [found.fingerprint for found in SCORERS.values()]
    assert len(fingerprints[0]) == 64 and len(set(fingerprints)) == 3
    assert SCORERS["narrative"].fingerprint == SCORER.fingerprint


@functools.cache
def init():
    return jax.jit(scorer.ShapesScorer().init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_save_and_load(tmp_path):
    params = init()
    path, again = tmp_path / "a.npz", tmp_path / "b.npz"
    for file in (path, again):
        scorer.save_scorer(file, params, {"command": "x"})
    assert path.read_bytes() == again.read_bytes()  # Files contain no dates.
    loaded = scorer.load_scorer(path)
    assert loaded.metadata["command"] == "x"
    halved = jax.tree.map(lambda p: np.float32(np.float16(p)), params)
    images, _ = training.degraded_examples("val", 32, 0.5, 5)
    assert loaded.read(images) == scorer.make_reader(halved)(images)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "scorer.npz"
    with pytest.raises(UserError, match="shapes.train_scorer writes one"):
        scorer.load_scorer(path)
    whole = scorer.PACKAGED["full"].read_bytes()
    for wrong in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="does not hold a scorer"):
            scorer.load_scorer(path)
    others = {"names": SCORER.metadata["names"] | {"sizes": ["small"]}}
    for metadata, message in (
        (SCORER.metadata, "arrays of other names"),
        (others, "names of another version"),
    ):
        np.savez(path, metadata=np.frombuffer(json.dumps(metadata).encode(), np.uint8))
        with pytest.raises(UserError, match=message):
            scorer.load_scorer(path)
    np.savez(path, metadata=np.array([{}], object))
    with pytest.raises(UserError, match="does not hold a scorer"):
        scorer.load_scorer(path)


# Training


def test_labels():
    scene = scenes.make_scene("train", 3, "narrative")
    labels = training.labels_of([scene])
    for item in scene.objects:
        indices = [kind[0, item.cell] for kind in labels[1:4]]
        words = [names[i] for names, i in zip(scorer.NAMES.values(), indices, strict=False)]
        assert words == [item.shape, item.colour, item.size]
    assert labels.present.sum() == len(scene.objects)
    assert scorer.NAMES["backgrounds"][labels.background[0]] == scene.background


def test_loss_of_perfect_and_of_blank_logits():
    labels = training.labels_of([scenes.make_scene("train", i) for i in range(4)])

    def one_hot(truth, names):
        return 100.0 * np.eye(len(names), dtype=np.float32)[truth]

    perfect = scorer.Logits(
        np.where(labels.present, 100.0, -100.0).astype(np.float32),
        *map(one_hot, labels[1:], scorer.NAMES.values()),
    )
    assert scorer.scorer_loss(perfect, labels) < 1e-6
    blank = jax.tree.map(np.zeros_like, perfect)
    expected = np.log(2) + sum(np.log(len(names)) for names in scorer.NAMES.values())
    np.testing.assert_allclose(scorer.scorer_loss(blank, labels), expected, rtol=1e-5)


@pytest.mark.long  # The weights that are shipped are tested above.
def test_training_is_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr(training, "_BATCH_SIZE", 4)
    monkeypatch.setattr(training, "_RESOLUTIONS", (32,))
    first, again, other = (training.train("full", 20, seed) for seed in (0, 0, 1))
    equal = jax.tree.map(np.array_equal, first, again)
    assert all(jax.tree.leaves(equal))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, first, other)["params"])[1::2])
    images, labels = training.make_batch("full", 0, 0)

    def loss(params):
        logits = scorer.ShapesScorer().apply(params, from_uint8(jnp.asarray(images)))
        return scorer.scorer_loss(logits, labels)

    assert loss(first) < loss(init())


@pytest.mark.parametrize(
    ("layout", "made"), [("full", {"full", "narrative"}), ("one", {"one"}), ("two", {"two"})]
)
def test_trains_on_training_scenes_of_the_layout_only(monkeypatch, layout, made):
    asked = []
    make_scene = scenes.make_scene

    def watch(split, index, layout):
        asked.append((split, layout))
        return make_scene(split, index, layout)

    monkeypatch.setattr(training, "make_scene", watch)
    training.make_batch(layout, 0, 0)
    assert set(asked) == {("train", layout) for layout in made}
    assert len(asked) == training._BATCH_SIZE


@pytest.mark.long
def test_the_command(tmp_path, run_verb):
    out = tmp_path / "scorer.npz"
    done = run_verb(
        "shapes.train_scorer", f"--out={out}", "--num_steps=20", "--num_measured=10", "--seed=3"
    )
    assert done.returncode == 0, done.stderr
    assert "sha256" in done.stdout and "all_correct" in done.stdout and "ETA" in done.stderr
    assert scorer.load_scorer(out).metadata["command"].endswith("--num_steps=20 --seed=3")


def test_the_command_refuses_mistakes(tmp_path, run_verb):
    assert_refused(run_verb("shapes.train_scorer"), "--out is missing")
    assert_refused(run_verb("shapes.train_scorer", f"--out={tmp_path}/no/x.npz"), "no folder")
