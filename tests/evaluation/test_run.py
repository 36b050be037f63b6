"""evaluation/run.py and training/evaluation.py: watched, killed, resumed, in training, exported."""

import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import xmc_jax
from tests import small_run
from tests.verbs import ROOT, TINY, assert_refused, environment
from xmc_jax.configs.shapes_32 import get_config
from xmc_jax.errors import UserError
from xmc_jax.evaluation import results
from xmc_jax.evaluation.evaluator import Evaluator
from xmc_jax.evaluation.resume import ResumableRows
from xmc_jax.evaluation.run import evaluate, watch
from xmc_jax.experiment import create_experiment
from xmc_jax.files import only_one
from xmc_jax.inference.export import export
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import write_config
from xmc_jax.run.folder import best_dir, checkpoints_dir, config_path, evaluation_dir
from xmc_jax.run.records import read_metrics
from xmc_jax.training import evaluation as training_evaluation
from xmc_jax.training.evaluation import _failure_is_a_notice, make_periodic_evaluation

COUNT = 40


@pytest.fixture(scope="module")
def config():
    """Wide enough that generating one image takes a while."""
    config = get_config()
    config.data.form = "sq32_n40"
    config.data.eval_split = "train"  # The others have five scenes.
    config.num_steps = 4
    config.model.generator_width = 16
    config.model.discriminator_width = 1
    config.eval.num_examples = COUNT
    config.eval.batch_size = 1
    config.eval.best_metric = "shapes_accuracy/background"
    return config


@pytest.fixture(scope="module")
def states(config):
    """A trainer's states at two steps; any numbers will do."""
    abstract = create_experiment(config, training=False).abstract_state()

    def make(step):
        rng = np.random.default_rng(step)

        def fill(x):
            floats = np.issubdtype(x.dtype, np.floating)
            values = np.abs(rng.normal(size=x.shape)) / 10 if floats else np.full(x.shape, step)
            return jax.device_put(values.astype(x.dtype), jax.devices()[0])

        return jax.tree.map(fill, abstract)

    return {step: make(step) for step in (2, 4)}


def eval_records(workdir):
    return [r for r in read_metrics(workdir) if r["kind"] == "eval"]


def wait_until(condition, child, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.long  # Half a minute of real processes; test_evaluator resumes work in one.
def test_watching_a_run_survives_kills_and_keeps_the_best(folder, config, states):
    workdir = folder / "watched"
    command = [sys.executable, "-m", "xmc_jax.evaluate", "--watch", f"--workdir={workdir}"]
    start = lambda: subprocess.Popen(  # noqa: E731
        [*command, "--metrics=shapes_accuracy"],
        cwd=ROOT,
        env=environment(folder / "data"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child = start()  # Before there is a run.
    assert child.stdout.readline().startswith("waiting for a run in")
    with Checkpoints(checkpoints_dir(workdir), keep_latest=1) as checkpoints:
        checkpoints.save(2, states[2])
        checkpoints.wait()
        write_config(workdir, config)
        generated = lambda: list((workdir / "evaluation").glob("step_*/generated_*.npy"))  # noqa: E731
        wait_until(lambda: len(generated()) >= 3, child)
        child.send_signal(signal.SIGKILL)
        said, _ = child.communicate()
        assert "0 checkpoints are measured already" in said and not eval_records(workdir)
        before = len(generated())
        assert 3 <= before < COUNT

        child = start()
        wait_until(lambda: eval_records(workdir), child)
        checkpoints.save(4, states[4])
        checkpoints.wait()
        assert checkpoints.steps() == [4]
    said, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    assert f"{before} of {COUNT} images were generated before" in said
    records = eval_records(workdir)
    keys = [(r["step"], r["metric"]) for r in records]
    assert len(keys) == len(set(keys)) and {step for step, _ in keys} == {2, 4}
    assert all(r["num_samples"] == COUNT for r in records)
    # Nothing is left but the best.
    assert not (workdir / "evaluation").exists() or not any(
        path.is_file() for path in (workdir / "evaluation").rglob("*")
    )
    values = {r["step"]: r["value"] for r in records if r["metric"] == config.eval.best_metric}
    best = max(values, key=lambda step: (values[step], -step))
    assert [path.name for path in best_dir(workdir).iterdir()] == [str(best)]
    with Checkpoints(best_dir(workdir), read_only=True) as checkpoints:
        step, ema = checkpoints.restore_ema(states[best].ema)
    assert step == best
    jax.tree.map(np.testing.assert_array_equal, ema, states[best].ema)


@pytest.mark.long
def test_evaluation_inside_of_training(folder, run_verb):
    workdir = folder / "inside"
    done = run_verb(
        "train",
        *TINY,
        f"--workdir={workdir}",
        "--config.num_steps=4",
        "--config.keep_checkpoints=1",
        "--config.eval.every_steps=2",
        "--config.eval.best_metric=shapes_accuracy/all_correct",
    )
    assert done.returncode == 0, done.stderr
    records = eval_records(workdir)
    assert {r["step"] for r in records} == {2, 4}
    assert {"shapes_accuracy/colour", "fd_vgg16"} <= {r["metric"] for r in records}
    kept = [path.name for path in best_dir(workdir).iterdir()]
    assert kept == ["2"] or kept == ["4"]

    done = run_verb("evaluate", f"--workdir={workdir}", "--metrics=shapes_accuracy", "--step=4")
    assert done.returncode == 0, done.stderr
    assert eval_records(workdir) == records  # The same numbers, written once.


@pytest.mark.long
def test_an_evaluation_that_failed_is_measured_later(folder, run_verb):
    """It does not end training; the same command measures the last step later, and once."""
    workdir = folder / "failed"
    workdir.mkdir()
    (workdir / "evaluation").write_text("A file, where images should be kept in a folder.")
    command = ["train", *TINY, f"--workdir={workdir}", "--config.num_steps=4"]
    command += ["--config.eval.every_steps=2", "--config.eval.best_metric=shapes_accuracy/colour"]
    done = run_verb(*command)
    assert done.returncode == 0, done.stderr
    for step in (2, 4):
        (told,) = [line for line in done.stderr.splitlines() if f"step {step} was not" in line]
        assert told.startswith("notice: ") and told.endswith("; training goes on")
        assert str(workdir / "evaluation") in told
    assert "Traceback" not in done.stderr and not eval_records(workdir)

    (workdir / "evaluation").unlink()
    before = len(read_metrics(workdir))
    done = run_verb(*command)
    assert done.returncode == 0 and "nothing more to do" in done.stdout, done.stderr
    records = eval_records(workdir)
    assert {r["step"] for r in records} == {4} and len(read_metrics(workdir)) == before + len(
        records
    )
    assert [path.name for path in best_dir(workdir).iterdir()] == ["4"]

    done = run_verb(*command)
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stderr
    assert eval_records(workdir) == records


def test_failures_that_training_survives(capsys):
    with _failure_is_a_notice("step 3 was not measured"):
        raise UserError("the disk\nis full")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "notice: step 3 was not measured: the disk is full; training goes on"
    with _failure_is_a_notice("step 3 was not measured"):
        raise ValueError  # A fault of this package: with all that a report of it needs.
    *trace, line = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback")
    assert line == "notice: step 3 was not measured: ValueError; training goes on"
    with pytest.raises(KeyboardInterrupt), _failure_is_a_notice("step 3 was not measured"):
        raise KeyboardInterrupt


def test_a_failed_evaluation_leaves_no_images(tmp_path, config, monkeypatch, capsys):
    """They may fill the disk, which training needs for its next checkpoint."""

    def measure(step, ema):
        ResumableRows(evaluation_dir(tmp_path, step, "ab" * 32), "generated").write(0, np.zeros(3))
        raise UserError("the disk is full")

    evaluator = Evaluator(("fd_vgg16",), measure)
    monkeypatch.setattr(training_evaluation, "create_evaluator", lambda *args, **options: evaluator)
    config = config.copy_and_resolve_references()
    config.eval.every_steps = config.checkpoint_every_steps = 2
    experiment = create_experiment(config, training=False, devices=jax.devices()[:1])
    write_config(tmp_path, experiment.config)
    ResumableRows(evaluation_dir(tmp_path, 1, "cd" * 32), "generated").write(0, np.zeros(3))
    with Checkpoints(checkpoints_dir(tmp_path)) as checkpoints:
        evaluate = make_periodic_evaluation(experiment, str(tmp_path), "", checkpoints)
        assert evaluate(2, None) is False
    assert "step 2 was not measured: the disk is full; training" in capsys.readouterr().err
    (left,) = (tmp_path / "evaluation").iterdir()
    assert left.name.startswith("step_00000001_")  # Of another evaluation, which may resume.


def test_an_exported_model_is_measured_like_its_run(folder):
    """In float32 it is the same generator with the same numbers; in float16 another one."""
    (folder / "small").mkdir()
    workdir = small_run.make(folder / "small", form="sq32_n40")
    before = {path: path.read_bytes() for path in workdir.glob("*.json")}
    folders, found = {"run": workdir}, {}
    for dtype in ("float32", "float16"):
        folders[dtype] = folder / dtype
        export(str(workdir), str(folders[dtype]), dtype=dtype, standalone=False)
    settings = {"num_examples": "5", "batch_size": "5", "best_metric": "shapes_accuracy/colour"}
    options = [str(folder / "data"), ["shapes_accuracy"], None, settings]
    for name, place in folders.items():
        found[name] = evaluate(str(place), *options)
        lines = [record.to_json() for record in found[name]]
        assert lines and read_metrics(place)[-len(lines) :] == lines
    assert found["float32"] == found["run"]
    generators = {name: {r.generator for r in records} for name, records in found.items()}
    assert len(generators["run"]) == len(generators["float16"]) == 1
    assert generators["float16"].isdisjoint(generators["run"])
    for this, other in zip(found["float16"], found["run"], strict=True):
        assert (this.step, this.protocol) == (small_run.STEP, other.protocol)
    assert evaluate(str(folders["float16"]), *options) == found["float16"]
    assert len(read_metrics(folders["float16"])) == len(found["float16"])  # Written once.

    assert {path: path.read_bytes() for path in before} == before
    for dtype in ("float32", "float16"):
        assert xmc_jax.load(folders[dtype]).step == small_run.STEP  # Whole, as it was exported.
        assert not best_dir(folders[dtype]).exists()
    with pytest.raises(UserError, match="exported model of step 3; it has no step 9"):
        evaluate(str(folders["float16"]), options[0], options[1], 9, settings)
    with pytest.raises(UserError, match="float16 is an exported model, .*; leave out --watch"):
        watch(str(folders["float16"]), options[0])
    export(str(workdir), str(folders["float16"]), standalone=False)
    assert not read_metrics(folders["float16"])  # They were of the model that is gone.


def test_what_an_evaluation_leaves_behind(folder, tmp_path, monkeypatch, capsys):
    """Another batch size takes none of its images, a write that failed all; two exclude it."""
    workdir = small_run.make(tmp_path, form="sq32_n40")
    options = [str(workdir), str(folder / "data"), ["shapes_accuracy"], None]

    def measure(batch_size):
        settings = {"num_examples": str(COUNT), "batch_size": str(batch_size)}
        return evaluate(*options, settings, "train")

    def interrupted(rows, index, pixels, write=ResumableRows.write):
        if index == 2:
            raise KeyboardInterrupt
        write(rows, index, pixels)

    def full(workdir, lines):
        raise UserError("the disk is full")

    expected = measure(8)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ResumableRows, "write", interrupted)
        measure(8)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk is full"):
        patch.setattr(results, "append_metrics", full)
        measure(16)
    assert "generated before" not in capsys.readouterr().out
    (scratch,) = (workdir / "evaluation").iterdir()
    with only_one(scratch, "measuring"), pytest.raises(UserError, match="is measuring the same"):
        measure(8)
    assert measure(16) == expected
    assert f"{COUNT} of {COUNT} images were generated before" in capsys.readouterr().out
    assert not scratch.exists()


def test_what_prompts_rule_out(folder, tmp_path, capsys):
    """Known before images are generated: refused where it was asked for, otherwise left out."""
    workdir = small_run.make(tmp_path, form="sq32_n40")
    settings = {"clip": "nowhere", "batch_size": "5"}
    data_dir = str(folder / "data")
    with pytest.raises(UserError, match="clip_r_precision cannot .* of 5 captions of val one has"):
        evaluate(str(workdir), data_dir, ["clip_r_precision"], None, settings)
    with pytest.raises(UserError, match="nowhere"):  # The others of CLIP can, and it is missing.
        evaluate(str(workdir), data_dir, [], None, settings)
    assert "notice: no clip_r_precision: of 5 captions of val one has" in capsys.readouterr().out
    assert not (workdir / "evaluation").exists()


def test_mistakes(tmp_path, folder, run_verb, config):
    write_config(tmp_path, config)
    before = config_path(tmp_path).read_bytes()
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no weights")
    weights = {"inception_weights": str(bad)}
    for name, settings, words in (
        ("fid40", {}, "fid40 cannot measure .* Inception of 2015, .*6726825d.pth"),
        ("fid30k", {}, "no metric 'fid30k' for this run; there are .*fid40"),
        ("kid40", weights, "kid40 cannot measure .* 1000 or more"),
        ("fid40", weights, "bad.pth is not pt_inception.* sha256"),
        ("fid40", {"num_exampels": "3"}, "no field num_exampels; there are .*num_examples"),
        ("fid40", {"num_examples": "many"}, "num_examples=many: "),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(str(tmp_path), str(folder / "data"), [name], None, settings)
    with pytest.raises(UserError, match="'tset'.*val"):
        evaluate(str(tmp_path), str(folder / "data"), ["shapes_accuracy"], split="tset")
    assert config_path(tmp_path).read_bytes() == before

    for flag in ("--step=3", "--split=test_comp"):
        done = run_verb("evaluate", f"--workdir={tmp_path}", "--watch", flag)
        assert_refused(done, "--watch", f"leave out {flag.partition('=')[0]}")
