"""The verb evaluate beside a run: watched, killed, started again, inside of training."""

import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs.shapes_32 import get_config
from tests.verbs import ROOT, TINY, assert_refused, environment
from xmc_jax import workdir as run
from xmc_jax.checkpoint import Checkpoints
from xmc_jax.errors import UserError
from xmc_jax.evaluate import evaluate
from xmc_jax.experiment import create_experiment

COUNT = 40


@pytest.fixture(scope="module")
def config():
    """Wide enough that drawing one picture takes a while."""
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
    return [r for r in run.read_metrics(workdir) if r["kind"] == "eval"]


def wait_until(condition, child, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


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
    with Checkpoints(run.checkpoints_dir(workdir), keep_latest=1) as checkpoints:
        checkpoints.save(2, states[2])
        checkpoints.wait()
        run.write_config(workdir, config)
        drawn = lambda: list((workdir / "evaluation").glob("step_*/drawn_*.npy"))  # noqa: E731
        wait_until(lambda: len(drawn()) >= 3, child)
        child.send_signal(signal.SIGKILL)
        said, _ = child.communicate()
        assert "0 checkpoints are measured already" in said and not eval_records(workdir)
        before = len(drawn())
        assert 3 <= before < COUNT

        child = start()
        wait_until(lambda: eval_records(workdir), child)
        checkpoints.save(4, states[4])
        checkpoints.wait()
        assert checkpoints.steps() == [4]
    said, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    assert f"{before} of {COUNT} pictures were drawn before" in said
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
    assert [path.name for path in run.best_dir(workdir).iterdir()] == [str(best)]
    with Checkpoints(run.best_dir(workdir), read_only=True) as checkpoints:
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
    kept = [path.name for path in run.best_dir(workdir).iterdir()]
    assert kept == ["2"] or kept == ["4"]

    done = run_verb("evaluate", f"--workdir={workdir}", "--metrics=shapes_accuracy", "--step=4")
    assert done.returncode == 0, done.stderr
    assert eval_records(workdir) == records  # The same numbers, written once.


def test_mistakes(tmp_path, folder, run_verb, config):
    run.write_config(tmp_path, config)
    before = run.config_path(tmp_path).read_bytes()
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no weights")
    weights = {"inception_weights": str(bad)}
    for name, settings, words in (
        ("fid40", {}, "fid40 cannot judge .* Inception of 2015, .*6726825d.pth"),
        ("fid30k", {}, "no metric 'fid30k' for this run; there are .*fid40"),
        ("kid40", weights, "kid40 cannot judge .* 1000 or more"),
        ("fid40", weights, "bad.pth is not pt_inception.* sha256"),
        ("fid40", {"num_exampels": "3"}, "no field num_exampels; there are .*num_examples"),
        ("fid40", {"num_examples": "many"}, "num_examples=many: "),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(str(tmp_path), str(folder / "data"), [name], None, settings)
    with pytest.raises(UserError, match="'tset'.*val"):
        evaluate(str(tmp_path), str(folder / "data"), ["shapes_accuracy"], split="tset")
    assert run.config_path(tmp_path).read_bytes() == before

    done = run_verb("evaluate", f"--workdir={tmp_path}", "--watch", "--step=3")
    assert_refused(done, "--watch", "--step")
