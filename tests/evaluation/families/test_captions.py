"""Metrics with CLIP and a detector, which are small networks of random weights here."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from tests import presets, verbs
from tests.presets import CLIP_SIDE
from xmc_jax import images
from xmc_jax.configs import shapes_32
from xmc_jax.data import catalog
from xmc_jax.data.builders.captioned import Settings
from xmc_jax.errors import UserError
from xmc_jax.evaluation.families import clip, compose, dinov2, soa
from xmc_jax.evaluation.image_sets import ImageSet, make_shards
from xmc_jax.evaluation.inputs import EvalInputs, Prompt
from xmc_jax.evaluation.selection import choose_metrics
from xmc_jax.frozen.clip import load_clip
from xmc_jax.frozen.detector import load_detector
from xmc_jax.metrics import frechet, mmd
from xmc_jax.metrics.compose import COLOURS, directions
from xmc_jax.metrics.intervals import wilson_interval
from xmc_jax.metrics.soa import CLASSES
from xmc_jax.parallel import sharding
from xmc_jax.shapes.accuracy import shuffle_captions

SIDE = 32
COUNT = 110
# Some that the small detector sees in plain colours, some that it does not, and no class.
KINDS = ("bench", "cow", "zebra", "dining table", "keyboard", "refrigerator", "toothbrush")
KINDS += ("cat", "bus", "vase", "stone")
# Fields of every record of these metrics in metrics.jsonl.
FIELDS = {"kind", "step", "generator", "split", "num_samples", "seed", "metric", "protocol"}
FIELDS |= {"value", "low", "high", "floor", "ceiling", "weights", "better"}


def caption(number):
    """A different caption for every number; each names one class, those of stones none."""
    word = "".join(chr(ord("a") + int(digit)) for digit in f"{number:03}")
    return f"{KINDS[number % len(KINDS)]}. {word}"


@pytest.fixture(scope="module", autouse=True)
def cache(folder):
    """Keeps features of real images in the folder of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def presets_of(folder):
    return {
        "clip": presets.write_clip(folder / "clip", seed=3),
        "detector": presets.write_detector(folder / "dfine"),
    }


@pytest.fixture(scope="module")
def inputs(folder, presets_of):
    """Plain colours: two of eleven generated images equal the real ones."""
    config = shapes_32.get_config()
    config.data.name, config.data.form = "folder", "colours_sq32"
    config.eval.num_examples, config.eval.batch_size = COUNT, 32
    config.eval.update(presets_of)
    rng, shards = np.random.default_rng(0), make_shards(config.eval.batch_size)
    colours = rng.integers(0, 256, (COUNT, 1, 1, 3), np.uint8)
    real = np.tile(colours, (1, SIDE, SIDE, 1))
    generated = np.where((np.arange(COUNT) % 11 < 2)[:, None, None, None], real, real[::-1])

    def image_set(name, pixels):
        def open_batches():
            for part in shards.ranges(len(pixels)):
                yield pixels[part.start : part.stop]

        return ImageSet(name, len(pixels), f"{folder} {name}", shards, open_batches)

    tokens = np.zeros(config.text.num_tokens, np.int32)
    prompts = [Prompt(f"image {i}", caption(i), 0, tokens) for i in range(COUNT)]
    sets = {"real": real, "other real": real, "generated": generated}
    sets = [image_set(*named) for named in sets.items()]
    scratch = epath.Path(folder / "scratch")
    return (
        EvalInputs(
            config,
            prompts,
            *sets,
            lambda prompts, name: sets[2],
            scratch,
            step=2,
            generator="g",
            open_training=lambda: sets[0],
        ),
        real,
        generated,
    )


@pytest.fixture(scope="module")
def mesh():
    """One device."""
    return sharding.make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def boxes_of(presets_of):
    """``pixels -> boxes`` of the detector, compiled once."""
    detector = load_detector(presets_of["detector"])
    apply = jax.jit(detector.apply)
    return lambda pixels: np.asarray(apply(detector.params, images.from_uint8(jnp.asarray(pixels))))


def embeddings(model, pixels):
    embed = jax.jit(model.embed_images)
    return embed(model.image_params, images.from_uint8(jnp.asarray(pixels)))


def cosines(preset, pixels):
    """Of every image and every caption."""
    model = load_clip(preset)
    a = embeddings(model, pixels)
    b = jax.jit(model.embed_captions)(
        model.caption_params, model.tokenize([caption(i) for i in range(len(pixels))])
    )
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def test_clip_metrics(inputs, mesh, presets_of):
    inputs, real, generated = inputs
    names = clip._OF_CAPTIONS
    records = {r.metric: r for r in clip.make_measure(inputs.config, mesh, names)(inputs)}
    assert tuple(records) == names
    of_real, of_generated = (cosines(presets_of["clip"], pixels) for pixels in (real, generated))

    score = records["clip_score"]
    assert score.value == pytest.approx(100 * np.maximum(np.diag(of_generated), 0).mean(), rel=1e-4)
    assert score.ceiling == pytest.approx(100 * np.maximum(np.diag(of_real), 0).mean(), rel=1e-4)
    assert score.low < score.value < score.high and score.to_json().keys() == FIELDS
    assert "CLIP clip" in score.protocol and "32 px" in score.protocol

    # One batch: every caption competes.
    batch = records["in_batch_r_precision"]
    first = np.mean(of_generated.argmax(axis=1) == np.arange(COUNT))
    assert batch.value == pytest.approx(first, abs=1e-6)
    assert batch.chance == pytest.approx(1 / COUNT)
    assert batch.to_json().keys() == FIELDS | {"chance"}
    assert (batch.low, batch.high) == pytest.approx(wilson_interval(first, COUNT))

    hundred = records["clip_r_precision"]
    assert hundred.chance == pytest.approx(0.01)
    assert first <= hundred.value <= first + 0.2  # Fewer competitors can only help.
    assert {r.weights for r in records.values()} == {load_clip(presets_of["clip"]).fingerprint}


def test_distances_of_images_in_clip(inputs, mesh, presets_of):
    inputs, real, generated = inputs
    inputs = dataclasses.replace(inputs, scratch=inputs.scratch / "distances")
    names = ("fd_clip", "cmmd", "cmmd_unbiased")
    records = clip.make_measure(inputs.config, mesh, names)(inputs)
    assert tuple(record.metric for record in records) == names
    model = load_clip(presets_of["clip"])
    pair = [np.asarray(embeddings(model, pixels)) for pixels in (generated, real)]
    distance = frechet.frechet_distance(*map(frechet.moments, pair))
    assert distance > 1e-3
    wanted = (distance, *mmd.cmmd(*pair))
    assert [record.value for record in records] == pytest.approx(wanted, rel=1e-3)
    # The other real images are the real ones here.
    floors = [0.0, *mmd.cmmd(pair[1], pair[1])]
    assert [record.floor for record in records] == pytest.approx(floors, abs=1e-6)
    assert floors[2] < 0 < wanted[1]
    for record in records:
        assert record.better == "lower" and record.weights == model.fingerprint
        assert "CLIP clip" in record.protocol and f"{COUNT} real images" in record.protocol
    assert [word in records[2].protocol for word in ("U-stat", "sigma 10")] == [True, True]
    # Chosen alone, a metric has the same number.
    (alone,) = clip.make_measure(inputs.config, mesh, names[2:])(inputs)
    assert alone.value == pytest.approx(records[2].value, rel=1e-9)


def test_semantic_object_accuracy(inputs, mesh, boxes_of):
    inputs, real, generated = inputs
    names = soa.names(COUNT)
    by_class, by_image = soa.make_measure(inputs.config, mesh, names)(inputs)

    def tally_of(pixels):
        """Hits and captions of each class, an image at a time."""
        tally = {}
        for i, rows in enumerate(boxes_of(pixels)):
            kind = KINDS[i % len(KINDS)]
            if kind != "stone":
                hits, count = tally.get(kind, (0, 0))
                seen = any(
                    number == CLASSES.index(kind) and score >= 0.5 for number, score, *_ in rows
                )
                tally[kind] = hits + seen, count + 1
        return tally

    tally = tally_of(generated)
    assert by_class.classes == {kind: list(tally[kind]) for kind in by_class.classes}
    assert len(by_class.classes) == len(tally) == 10
    assert by_class.num_samples == 100 and by_class.to_json().keys() == FIELDS | {"classes"}
    hits = sum(hits for hits, _ in tally.values())
    assert 0 < hits < 100
    assert by_image.value == pytest.approx(hits / 100)
    assert by_class.value == pytest.approx(np.mean([h / n for h, n in tally.values()]))
    hits = sum(hits for hits, _ in tally_of(real).values())
    assert by_image.ceiling == pytest.approx(hits / 100)
    assert by_image.low <= by_image.value <= by_image.high
    assert "D-FINE dfine" in by_image.protocol and "score >= 0.5" in by_image.protocol


def composed(number):
    """A caption and its claims, as tuples of a kind and what it is about."""
    one, other = (KINDS[i % (len(KINDS) - 1)] for i in (number, number + 1))
    colour = COLOURS[number % len(COLOURS)]
    plural = f"{one}es" if one in ("bus", "bench", "toothbrush") else f"{one}s"
    return (
        (f"a {colour} {one}", [("presence", one), ("colour", one, colour, 1)]),
        (f"two {plural} outside", [("presence", one), ("count", one, 2)]),
        (
            f"A {one} left of a {other}.",
            [("presence", one), ("presence", other), ("relation", one, "left of", other)],
        ),
        ("a stone", []),
        (
            f"three {colour} {plural}",
            [("presence", one), ("count", one, 3), ("colour", one, colour, 3)],
        ),
    )[number % 5]


def make_decide(boxes, model, pixels):
    """``(image, claim) -> whether it holds``, by boxes of the images and colours of CLIP."""
    # The images are plain: whatever the crop, its colour is that of the image.
    plain = images.from_uint8(jnp.asarray(pixels[:, :CLIP_SIDE, :CLIP_SIDE]))
    rows = np.asarray(jax.jit(model.embed_images)(model.image_params, plain))
    embed_captions = jax.jit(model.embed_captions)

    @functools.cache
    def colours_of(name):
        texts = model.tokenize([f"a photo of a {colour} {name}" for colour in COLOURS])
        captions = np.asarray(embed_captions(model.caption_params, texts))
        cosines = rows @ (captions / np.linalg.norm(captions, axis=1, keepdims=True)).T
        return [COLOURS[i] for i in cosines.argmax(axis=1)]

    def decide(i, claim):
        kind, name, *more = claim
        places = {}
        for number, score, *box in boxes[i].tolist():
            if score >= 0.5:
                places.setdefault(CLASSES[int(number)], []).append(tuple(box))
        mine = places.get(name, [])
        if kind == "count":
            return len(mine) == more[0]
        if kind == "colour":
            return len(mine) >= more[1] and colours_of(name)[i] == more[0]
        if kind == "relation":
            others = places.get(more[1], [])
            return any(more[0] in directions(a, b) for a in mine for b in others)
        return len(mine) > 0

    return decide


def test_compositional_scores(inputs, mesh, presets_of, boxes_of):
    inputs, real, generated = inputs
    captions, claims = zip(*map(composed, range(COUNT)), strict=True)
    prompts = [p._replace(caption=c) for p, c in zip(inputs.prompts, captions, strict=True)]
    inputs = dataclasses.replace(inputs, prompts=prompts)
    records = {r.metric: r for r in compose.make_measure(inputs.config, mesh, ["compose"])(inputs)}
    parts = ("presence", "count", "colour", "relation", "all")
    assert list(records) == [f"compose/{part}" for part in parts]
    shuffled = [claims[i] for i in shuffle_captions(COUNT, inputs.config.eval.seed)]
    model = load_clip(presets_of["clip"])
    of_generated, of_real = (make_decide(boxes_of(x), model, x) for x in (generated, real))
    fields = {
        "value": (of_generated, claims),
        "floor": (of_generated, shuffled),
        "ceiling": (of_real, claims),
    }
    decided = {
        field: [[(c[0], decide(i, c)) for c in each] for i, each in enumerate(of_captions)]
        for field, (decide, of_captions) in fields.items()
    }
    for part in parts:
        record = records[f"compose/{part}"]
        for field, of_captions in decided.items():
            kept = [[ok for kind, ok in each if part in (kind, "all")] for each in of_captions]
            right = [all(each) for each in kept if each]
            assert getattr(record, field) == pytest.approx(np.mean(right)), (part, field)
        assert record.num_samples == len(right) and record.claims == sum(map(len, kept))
        assert (record.low, record.high) == wilson_interval(record.value, record.num_samples)
        more = {"claims", "floor_low", "floor_high", "ceiling_low", "ceiling_high"}
        assert record.to_json().keys() == FIELDS | more
    # The random networks see some of each, which makes the comparison above one.
    assert all(0 < records[f"compose/{part}"].value < 1 for part in ("presence", "colour", "all"))
    detector = load_detector(presets_of["detector"]).fingerprint
    assert records["compose/count"].weights == detector != records["compose/colour"].weights
    assert "colours of boxes by CLIP clip" in records["compose/all"].protocol


def test_compositional_scores_without_clip(inputs, mesh):
    inputs, *_ = inputs
    config = inputs.config.copy_and_resolve_references()
    config.eval.clip = ""
    prompts = [p._replace(caption="a red cow") for p in inputs.prompts]
    inputs = dataclasses.replace(inputs, config=config, prompts=prompts)
    records = {r.metric: r for r in compose.make_measure(config, mesh, ["compose"])(inputs)}
    assert list(records) == ["compose/presence", "compose/all"]
    assert "no claims of colour" in records["compose/all"].protocol
    assert records["compose/all"].value == records["compose/presence"].value


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.0, 0.0, 1.0, 1.0), 7.5),
        ((0.5, 0.0, 1.0, 1.0), 11.5),  # The central square of the right half.
        ((0.75, 0.25, 1.0, 0.5), 13.5),
        ((0.5, 0.0, 0.5, 0.0), 8.0),  # Without extent: the pixel beside it.
    ],
)
def test_crops(box, expected):
    columns = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None], (16, 16, 3))
    cropped = compose.crop(np.ascontiguousarray(columns), box, 8)
    assert cropped.shape == (8, 8, 3)
    assert cropped.mean() == pytest.approx(expected, abs=0.51)


def test_why_metrics_are_not_available():
    config = shapes_32.get_config()
    for name, words in {
        "clip_score": "no CLIP is named: set config.eval.clip",
        "cmmd": "no CLIP is named: set config.eval.clip",
        "soa_c": "captions of shapes name none",
    }.items():
        with pytest.raises(UserError, match=f"{name} cannot measure this run: {words}"):
            choose_metrics([name], config)
    config.eval.clip, config.eval.num_examples = "somewhere", 99
    with pytest.raises(UserError, match="clip_r_precision cannot .* needs 100 prompts or more"):
        choose_metrics(["clip_r_precision"], config)
    config.data.name = "coco"
    for name in ("soa_i", "compose"):
        with pytest.raises(UserError, match=f"{name} cannot .* no detector is named"):
            choose_metrics([name], config)
    assert "clip_score" in choose_metrics((), config)


def test_why_prompts_rule_metrics_out():
    config = shapes_32.get_config()
    config.data.name, config.data.eval_split = "coco", "val"
    config.eval.clip = config.eval.detector = "somewhere"

    def prompts(captions):
        return [Prompt(f"image {i}", text, 0, np.zeros(8, np.int32)) for i, text in captions]

    hundred = prompts(enumerate(map(caption, range(100))))
    assert {"clip_r_precision", "soa_c"} <= set(choose_metrics((), config, hundred))
    two_alike = [*hundred[:-1], hundred[0]._replace(example_id="another image")]
    with pytest.raises(UserError, match="of 100 captions of val one has 98 .* needs 99: raise"):
        choose_metrics(["clip_r_precision"], config, two_alike)
    stones = prompts((i, "a stone") for i in range(3))
    with pytest.raises(UserError, match="soa_c cannot .* none of 3 captions names one of COCO's"):
        choose_metrics(["soa_c"], config, stones)
    with pytest.raises(UserError, match="in_batch_r_precision cannot .* has 0 .* and needs 1"):
        choose_metrics(["in_batch_r_precision"], config, stones)
    chosen = choose_metrics((), config, stones)
    assert set(chosen).isdisjoint(clip._OF_CAPTIONS + soa.names(3) + compose.names(3))
    with pytest.raises(UserError, match="compose cannot .* none of 3 captions makes a claim"):
        choose_metrics(["compose"], config, stones)
    assert "compose" in choose_metrics((), config, hundred)
    assert {"fd_clip", "cmmd", "cmmd_unbiased"} <= set(chosen)
    with pytest.raises(UserError, match="cmmd cannot .* it needs 2 prompts, and val has 1"):
        choose_metrics(["cmmd"], config, stones[:1])


@pytest.mark.long
def test_on_a_run(folder, run_verb, presets_of, rng):
    source, lines = folder / "noise.jsonl", []
    for i in range(COUNT + 12):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
        split = "val" if i < COUNT + 8 else "train"
        line = {"image": f"{i:03}.png", "captions": [caption(i)], "split": split}
        lines.append(json.dumps(line) + "\n")
    source.write_text("".join(lines))
    data_dir, form = folder / "data", "noise_sq128"
    builder = catalog.make_builder("folder", form=form, data_dir=str(data_dir))
    catalog.build(builder, Settings(source=source))
    workdir = folder / "run"
    done = run_verb(
        "train",
        *verbs.TINY,
        "--config.data.name=folder",
        f"--config.data.form={form}",
        "--config.num_steps=2",
        f"--config.eval.num_examples={COUNT}",
        "--config.eval.batch_size=32",
        f"--config.eval.clip={presets_of['clip']}",
        f"--workdir={workdir}",
    )
    assert done.returncode == 0, done.stderr
    families, network = (dinov2, clip, soa, compose), presets.write_dinov2(folder / "dinov2")
    names = [name for family in families for name in family.names(COUNT)]
    done = run_verb(
        "evaluate",
        f"--workdir={workdir}",
        f"--metrics={','.join(names)}",
        f"--set=detector={presets_of['detector']}",
        f"--set=dinov2={network}",
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in names)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    records = {line["metric"]: line for line in lines if line["kind"] == "eval"}
    assert list(dict.fromkeys(name.partition("/")[0] for name in records)) == names
    for name, record in records.items():
        fields = {"value", "low", "high", "floor", "ceiling"}
        if name in ("fd_dinov2", "fd_clip", "cmmd", "cmmd_unbiased"):
            fields = {"value", "floor"}
        elif name.startswith("prdc"):
            fields = {"value", "ceiling"}
        assert all(np.isfinite(record[field]) for field in fields)
        assert record["step"] == 2 and len(record["weights"]) == 64
        if name.startswith(("soa", "compose")):  # Of 118 captions, 10 name none.
            assert 100 <= record["num_samples"] <= 108
        else:
            assert record["num_samples"] == COUNT
