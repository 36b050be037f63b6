"""evaluation/: shards, work that survives kills, features by content, metrics, best checkpoints."""

import functools
import hashlib
import itertools
import json

import jax
import numpy as np
import pytest
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from tests import places
from tests.golden.make_metrics import cases
from tests.inception import encode, seeded_state
from xmc_jax.configs.shapes_32 import get_config
from xmc_jax.errors import UserError
from xmc_jax.evaluation import results
from xmc_jax.evaluation.distances import frechet_between
from xmc_jax.evaluation.families import inception, vgg16
from xmc_jax.evaluation.features import Features, Network
from xmc_jax.evaluation.image_sets import ImageSet, ProcessShards, make_shards
from xmc_jax.evaluation.inputs import EvalInputs, Prompt, short_count
from xmc_jax.evaluation.resume import ResumableRows, remove
from xmc_jax.evaluation.selection import choose_metrics, recorded_names
from xmc_jax.frozen.inception_weights import InceptionWeights
from xmc_jax.parallel import sharding
from xmc_jax.run.config import write_config
from xmc_jax.run.folder import (
    best_dir,
    checkpoints_dir,
    eval_events_dir,
    find_checkpoints,
    held_dir,
)
from xmc_jax.run.records import MetricRecord, read_metrics

GOLDEN = json.loads((places.GOLDEN / "metrics.json").read_text())


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_images(pixels, name="generated", batch_size=8):
    """A set in memory, and the list of batches that were read."""
    shards, reads = make_shards(batch_size), []

    def open_batches():
        for index, part in enumerate(shards.ranges(len(pixels))):
            reads.append(index)
            yield pixels[part.start : part.stop]

    identity = hashlib.sha256(pixels.tobytes()).hexdigest()
    return ImageSet(name, len(pixels), identity, shards, open_batches), reads


def blank_images(count, name="generated"):
    return make_images(np.zeros((count, 1, 1, 3), np.uint8), name)[0]


def make_prompts(count):
    return [Prompt(str(i), "a red circle", 0, np.zeros(20, np.int32)) for i in range(count)]


@pytest.mark.parametrize(("count", "processes"), [(10, 1), (10, 2), (3, 4), (17, 4), (8, 2)])
def test_processes_share_everything_once_in_lockstep(count, processes):
    shards = [ProcessShards(4, index, processes) for index in range(processes)]
    assert len({len(shard.ranges(count)) for shard in shards}) == 1
    owned = [shard.own(range(count)) for shard in shards]
    assert sorted(itertools.chain(*owned)) == list(range(count))


def test_gather_restores_the_order():
    shards, rows = ProcessShards(4), np.arange(10)[:, None] / 3
    np.testing.assert_array_equal(shards.gather(rows, 10), rows)


def test_rows_are_found_up_to_the_first_gap(tmp_path):
    folder = epath.Path(tmp_path / "work")
    rows = ResumableRows(folder, "x")
    assert rows.num_done() == 0
    for index in (0, 1, 3):
        rows.write(index, np.full((2, 3), index, np.float32))
    again = ResumableRows(folder, "x")
    assert again.num_done() == 2 and ResumableRows(folder, "y").num_done() == 0
    np.testing.assert_array_equal(again.read(1), np.ones((2, 3)))
    path = next(p for p in folder.iterdir() if p.name.endswith("000001.npy"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="000001.npy cannot be read .* evaluate again"):
        again.read(1)
    remove(folder)
    assert not folder.exists()


def test_a_disk_that_takes_no_rows(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write .*: .*the evaluation resumes"):
        ResumableRows(epath.Path(tmp_path / "file"), "x").write(0, np.zeros(1))


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


def make_features(mesh, factor=2.0, fingerprint="f"):
    """The means of the channels, times a weight."""

    def apply(params, pixels):
        return pixels.astype(np.float32).mean(axis=(1, 2)) * params

    return Features(Network("means", apply, np.float32(factor), fingerprint), mesh)


def test_features_over_devices_and_by_content(mesh, rng, tmp_path):
    scratch = epath.Path(tmp_path / "scratch")
    pixels = rng.integers(0, 256, (21, 4, 4, 3)).astype(np.uint8)
    images, reads = make_images(pixels, "real")
    wanted = 2 * pixels.mean(axis=(1, 2), dtype=np.float64)
    features = make_features(mesh)
    np.testing.assert_allclose(features(images, scratch, keep=True), wanted, rtol=1e-6)
    assert reads == [0, 1, 2]
    remove(scratch)
    np.testing.assert_allclose(features(images, scratch, keep=True), wanted, rtol=1e-6)
    assert reads == [0, 1, 2]  # Kept.
    # Other weights or one other pixel: features that were kept are never stale.
    make_features(mesh, 3.0, "g")(images, scratch, keep=True)
    assert len(reads) == 6
    pixels = pixels.copy()
    pixels[20, 0, 0, 0] ^= 128
    changed, _ = make_images(pixels, "real")
    found = features(changed, scratch, keep=True)
    np.testing.assert_allclose(found, 2 * pixels.mean(axis=(1, 2)), rtol=1e-6)


def test_features_that_cannot_be_kept_are_a_notice(mesh, tmp_path, capsys):
    (tmp_path / "cache").write_text("A file, where the cache should be a folder.")
    images, scratch = blank_images(3, "real"), epath.Path(tmp_path / "scratch")
    assert make_features(mesh)(images, scratch, keep=True).shape == (3, 3)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("notice: features are not kept: cannot write")


def test_batch_sizes_do_not_matter(mesh, rng, tmp_path):
    pixels = rng.integers(0, 256, (21, 4, 4, 3)).astype(np.uint8)
    one, other = (
        make_features(mesh)(make_images(pixels, batch_size=b)[0], epath.Path(tmp_path), keep=False)
        for b in (8, 16)
    )
    np.testing.assert_array_equal(one, other)


def test_features_resume_after_a_stop(mesh, rng, tmp_path):
    scratch = epath.Path(tmp_path / "scratch")
    pixels = rng.integers(0, 256, (24, 4, 4, 3)).astype(np.uint8)
    images, _ = make_images(pixels)
    calls, stopped = [], make_features(mesh)
    apply = stopped._apply

    def fail(params, sent):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return apply(params, sent)

    stopped._apply = fail
    with pytest.raises(KeyboardInterrupt):
        stopped(images, scratch, keep=False)
    stopped(images, scratch, keep=False)
    assert len(calls) == 4  # The third again, and none of the others.


@pytest.mark.parametrize("name", ["many", "few"])
def test_distances_choose_the_exact_form(name):
    """Golden features: by moments, and by singular values where vectors are few."""
    sets = dict(zip(("generated", "real"), cases()[name], strict=True))
    images = [blank_images(len(features), name) for name, features in sets.items()]
    found = frechet_between(*images, lambda x: sets[x.name])
    assert found == pytest.approx(GOLDEN[name]["pytorch_fid"], rel=1e-6)


def test_kid_shows_its_progress(rng, capsys, mesh, monkeypatch):
    """A hundred subsets take a minute or so; here three are enough."""
    monkeypatch.setattr(inception, "NUM_SUBSETS", 3)
    few = functools.partial(inception.kernel_distance, num_subsets=3)
    monkeypatch.setattr(inception, "kernel_distance", few)
    real, generated = (blank_images(1000, name) for name in ("real", "generated"))
    others = blank_images(9, "other real")  # Too few.
    inputs = EvalInputs(
        get_config(),
        (),
        real,
        others,
        generated,
        lambda prompts, name: generated,
        epath.Path(),
        2,
        "g",
        lambda: real,
    )
    sets = inception._InceptionFeatures(make_features(mesh), inputs, InceptionWeights({}, "w"))
    sets._computed = {
        images.name: rng.normal(size=(len(images), 2048)).astype(np.float32)
        for images in (real, generated)
    }
    (found,) = inception._kid(sets)
    assert found.metric == "kid1k" and found.floor is None
    assert (found.step, found.generator, found.num_samples) == (2, "g", 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("kid of generated images 3/3  ") and "ETA" in lines[-1]
    assert all(line.startswith("kid of generated images") for line in lines)


def test_fid_and_prdc_of_images(rng, tmp_path, monkeypatch, capsys):
    """The real network on few images: generated ones that equal the real ones are at distance 0."""
    path = tmp_path / "weights.pth"
    path.write_bytes(encode(seeded_state(), legacy=True))
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    load = inception.load_inception_weights
    monkeypatch.setattr(
        inception, "load_inception_weights", lambda path: load(path, sha256_prefix=prefix)
    )
    config = get_config()
    config.eval.num_examples = config.eval.batch_size = 8
    config.eval.inception_weights = str(path)
    chosen = choose_metrics(("fid8", "prdc8"), config)
    measure = inception.make_measure(config, sharding.make_mesh(jax.devices()[:1]), chosen)

    pixels = rng.integers(0, 256, (2, 8, 32, 32, 3)).astype(np.uint8)
    pixels[1] //= 2
    sets = [
        make_images(pixels[index], name)[0]
        for index, name in ((0, "real"), (1, "other real"), (0, "generated"))
    ]
    scratch = epath.Path(tmp_path / "scratch")
    found = measure(
        EvalInputs(
            config,
            make_prompts(8),
            *sets,
            lambda prompts, name: sets[2],
            scratch,
            2,
            "g",
            lambda: sets[0],
        )
    )
    values = {r.metric: r for r in found}
    assert set(values) == {
        "fid8",
        *(f"prdc8/{n}" for n in ("precision", "recall", "density", "coverage")),
    }
    assert abs(values["fid8"].value) < 1e-6 < values["fid8"].floor
    fields = {"kind", "step", "generator", "split", "num_samples", "seed", "metric", "protocol"}
    fields |= {"value", "floor", "ceiling", "weights", "better"}
    assert all(r.to_json().keys() == fields for r in found)
    assert values["prdc8/precision"].value == values["prdc8/coverage"].value == 1
    assert values["prdc8/coverage"].ceiling < 1
    assert all(r.weights.startswith(prefix) for r in found)
    assert "fed as pytorch-fid does" in values["fid8"].protocol
    printed = capsys.readouterr().err
    assert "prdc of generated images 24/24  " in printed
    assert "prdc of other real images 24/24  " in printed


def test_names_have_the_number():
    assert [short_count(n) for n in (30_000, 1000, 999, 8573, 2)] == [
        "30k",
        "1k",
        "999",
        "8573",
        "2",
    ]
    config = get_config()
    assert set(inception.names(config.eval.num_examples)) == {"fid1k", "kid1k", "is1k", "prdc1k"}
    of_shapes = ("shapes_accuracy", "shapes_accuracy_trained", "shapes_diversity")
    assert choose_metrics((), config) == (*of_shapes, "fd_vgg16", "compose")
    # Fewer prompts than the config asks for: fewer metrics, and names that say so.
    config.eval.inception_weights = "somewhere"
    prompts = make_prompts(573)
    with pytest.raises(UserError, match="kid1k cannot .* needs 1000 prompts, and val has 573"):
        choose_metrics(["kid1k"], config, prompts)
    chosen = choose_metrics((), config, prompts)
    assert {"fid1k", "prdc1k"} <= set(chosen) and "kid1k" not in chosen
    recorded = recorded_names(chosen, config, len(prompts))
    assert {"fid573", "prdc573", "fd_vgg16"} <= set(recorded) and len(recorded) == len(chosen)
    config.eval.inception_weights = ""
    config.data.name = "coco"
    config.loss.image_pretrained_weight = 1.0
    with pytest.raises(UserError, match="no metric can measure this run; .*logical forms.*VGG-16"):
        choose_metrics((), config)


def test_fields_of_training_may_be_missing():
    config = get_config()
    with config.unlocked():
        del config.loss, config.optimizer, config.num_steps
    assert vgg16.reason_unavailable("fd_vgg16", config, None) is None
    assert "fd_vgg16" in choose_metrics((), config)


def record(step, value, better="lower", **more):
    fields = {"split": "val", "metric": "fid1k", "protocol": "p", "weights": "w", "num_samples": 9}
    return MetricRecord(**fields | {"step": step, "value": value, "better": better} | more)


def test_best_step():
    records = [record(1, 5.0), record(2, 3.0), record(3, 3.0), record(4, None)]
    assert results.best_step(records, "fid1k") == 2
    assert results.best_step(records, "is1k") is None
    assert results.best_step([record(1, 5.0, "higher"), record(2, 3.0, "higher")], "fid1k") == 1
    # Another protocol is another scale.
    assert results.best_step([record(1, 1.0, protocol="old"), *records[:2]], "fid1k") == 2
    # A lucky few images.
    assert results.best_step([record(1, 1.0, num_samples=5), *records[:2]], "fid1k") == 2


def test_a_checkpoint_is_linked_whole_or_not_at_all(tmp_path):
    checkpoints, held = checkpoints_dir(tmp_path), held_dir(tmp_path)
    (checkpoints / "3" / "ema").mkdir(parents=True)
    (checkpoints / "3" / "ema" / "data").write_text("numbers")
    assert results.link_checkpoint(checkpoints, held, 3)
    (checkpoints / "3").rmtree()
    assert (held / "3" / "ema" / "data").read_text() == "numbers"
    assert results.link_checkpoint(checkpoints, held, 3)  # It is there.
    assert not results.link_checkpoint(checkpoints, held, 4)
    assert [path.name for path in held.iterdir()] == ["3"]
    assert find_checkpoints(tmp_path, 3) == checkpoints


def test_tensorboard_shows_evaluations_by_step_and_split(tmp_path):
    write_config(tmp_path, get_config())
    for step, value in ((1, 5.0), (2, 4.0), (2, 4.0)):  # The last is there already.
        results.write_records(tmp_path, [record(step, value)])
    results.write_records(tmp_path, [record(2, 7.0, split="test_comp"), record(3, None)])
    events = EventAccumulator(str(eval_events_dir(tmp_path))).Reload()
    shown = {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    assert shown == {"eval/fid1k": [(1, 5.0), (2, 4.0)], "eval/test_comp/fid1k": [(2, 7.0)]}


def test_numbers_are_kept_if_tensorboard_cannot_have_them(tmp_path, capsys):
    write_config(tmp_path, get_config())
    eval_events_dir(tmp_path).write_text("a file, where a folder should be")
    results.write_records(tmp_path, [record(1, 5.0)])
    assert [r["value"] for r in read_metrics(tmp_path)] == [5.0]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("notice: metrics.jsonl has these numbers") and "File exists" in line


def test_the_best_is_kept_and_replaced(tmp_path, capsys):
    checkpoints, best = checkpoints_dir(tmp_path), best_dir(tmp_path)
    write_config(tmp_path, get_config())
    for step, value in ((1, 5.0), (2, 4.0), (3, 6.0)):
        (checkpoints / str(step)).mkdir(parents=True)
        (checkpoints / str(step) / "data").write_text(str(step))
        results.write_records(tmp_path, [record(step, value)])
        results.keep_best(tmp_path, "fid1k")
        assert [p.name for p in best.iterdir()] == [str(min(step, 2))]
    (checkpoints / "2").rmtree()
    assert find_checkpoints(tmp_path, 2) == best
    assert find_checkpoints(tmp_path, None) == checkpoints
    # Records on other splits decide nothing, and are no measurement of the run's own.
    results.write_records(tmp_path, [record(3, 1.0, split="test_comp")])
    results.write_records(tmp_path, [record(9, 1.0, split="test_comp")])
    results.keep_best(tmp_path, "fid1k")
    assert [p.name for p in best.iterdir()] == ["2"]
    assert results.measured_steps(tmp_path, ["fid1k"]) == {1, 2, 3}
    results.keep_best(tmp_path, "wrong")
    assert "no value of config.eval.best_metric='wrong'; there are fid1k" in capsys.readouterr().err
