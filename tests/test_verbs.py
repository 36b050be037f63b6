"""The verbs as a user runs them: real processes on a real, tiny run."""

import json
import re
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.disks import small_disk
from tests.verbs import TINY, assert_refused, finish, wait_for_line

# A small text encoder: the packaged one, in the same place, is in `evaluation/test_run`. With what
# helps small models to learn: captions are encoded once, and some of them forgotten.
RUN = [
    *TINY,
    "--config.d_steps=1",
    "--config.text.encoder=tests/golden/earlier/bert",
    "--config.text.projection=5",
    "--config.data.cached_captions=9",
    "--config.model.first_layer=noise_and_sentence",
    "--config.loss.instance_noise=0.3",
    "--config.optimizer.decay_from=0.5",
]


@pytest.fixture(scope="module")
def trained(folder, start_verb, run_verb):
    """A run of eight steps that was killed, stopped, and taken up again, by the same command."""
    workdir = folder / "run"
    command = ["train", *RUN, f"--workdir={workdir}", "--config.num_steps=8"]
    killed = start_verb(*command)
    wait_for_line(killed, "step 2/8")
    killed.kill()  # SIGKILL: in mid-save, or in one of the next steps.
    assert finish(killed).returncode == -signal.SIGKILL

    stopped = start_verb(*command)
    wait_for_line(stopped, "training from step")
    second = run_verb(*command)
    assert_refused(second, f"process {stopped.pid} on ", f"is training in {workdir}")
    wait_for_line(stopped, "first step")
    stopped.send_signal(signal.SIGTERM)
    stopped = finish(stopped)

    done = run_verb(*command)
    assert done.returncode == 0, done.stderr
    return workdir, stopped, done


def leaves_of(workdir, step):
    """Every array of a checkpoint, read with Orbax alone."""
    import jax
    import orbax.checkpoint as ocp

    reader = ocp.StandardCheckpointer()
    items = [
        reader.restore(workdir / "checkpoints" / str(step) / item) for item in ("state", "ema")
    ]
    return jax.tree.map(np.asarray, items)


def train_records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if r["kind"] == "train"]
    return [{k: v for k, v in r.items() if k != "steps_per_second"} for r in records]


def test_a_restarted_run_equals_an_uninterrupted_one(folder, trained, run_verb):
    import jax

    workdir, stopped, _ = trained
    assert stopped.returncode == 0, stopped.stderr
    assert "SIGTERM: saving; a second signal ends at once" in stopped.stderr
    assert re.search(
        r"^(stopped before 8, and saved|done): .* is at step \d$", stopped.stdout, re.M
    )
    whole = folder / "whole"
    profile = "--profile=5:2"  # Changes nothing.
    done = run_verb("train", *RUN, f"--workdir={whole}", "--config.num_steps=8", profile)
    assert done.returncode == 0, done.stderr
    assert list(whole.glob("plugins/profile/*/*.xplane.pb"))
    jax.tree.map(np.testing.assert_array_equal, leaves_of(workdir, 8), leaves_of(whole, 8))
    assert train_records(workdir) == train_records(whole)
    assert [r["step"] for r in train_records(workdir)] == [2, 4, 6, 8]


def test_training_reports_progress_and_leaves_everything_in_place(trained):
    workdir, stopped, done = trained
    said = stopped.stdout + done.stdout
    assert re.search(r"step 8/8 .* steps/s  .* images/s  ETA 0:00", said)
    assert "Traceback" not in done.stderr
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "metrics.jsonl", "samples", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    grid = np.asarray(Image.open(workdir / "samples" / "step_00000008.png"))
    assert grid.ndim == 3 and grid.std() > 0
    assert len(json.loads((workdir / "samples" / "captions.json").read_text())["captions"]) > 1
    assert all("g/image_d_accuracy" in r for r in train_records(workdir))
    assert re.search(r"^step 8/8  swapped words .*  colour \d\.\d\d/\d\.\d\d", said, re.M)
    records = list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))
    probes = [r for r in records if r["kind"] == "probe"]
    assert [r["step"] for r in probes] == [4, 8] and "probe/word/shape" in probes[0]
    starts = [r for r in records if r["kind"] == "start"]
    assert starts[0]["step"] == 0 < starts[-1]["step"] < 8  # Started, killed, stopped, finished.
    assert starts[0]["devices"] == "1 x cpu" and starts[0]["versions"]["jax"]


def test_tensorboard_shows_the_run(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workdir, *_ = trained
    tags = EventAccumulator(str(workdir)).Reload().Tags()["tensors"]
    numbers = train_records(workdir)[0].keys() - {"kind", "step"}
    shown = {"steps_per_second", "probe/sentence/colour", "samples", "captions", "config"}
    assert numbers | shown <= set(tags)


@pytest.mark.long  # Also in test_processes.
def test_a_finished_run_has_nothing_to_do(trained, run_verb):
    workdir, *_ = trained
    before = (workdir / "config.json").read_bytes()
    done = run_verb(
        "train", *RUN, f"--workdir={workdir}", "--config.num_steps=8", "--config.seed=9"
    )
    assert done.returncode == 0 and "nothing to do" in done.stdout
    assert (workdir / "config.json").read_bytes() == before  # How it was trained.


def test_sample_draws_captions_and_tells_what_is_lost(folder, trained, run_verb):
    workdir, *_ = trained
    out = folder / "pictures"
    captions = folder / "captions.txt"
    captions.write_text("a green star\n\n赤い円 ☃\n")
    long = "a red circle " * 20
    done = run_verb(
        "sample",
        f"--workdir={workdir}",
        f"--out={out}",
        "--num_images=2",
        f"--caption={long}",
        f"--captions_file={captions}",
    )
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in out.iterdir())
    assert len(names) == 7 and "grid.png" in names and "0001_a-green-star_0.png" in names
    assert np.asarray(Image.open(out / names[0])).shape == (32, 32, 3)
    assert re.search(r"notice: .* has 62 word pieces; this model reads the first 20", done.stderr)
    assert re.search(r"notice: '赤い円 ☃' has \d+ word piece.*does not know", done.stderr)


@pytest.mark.long  # Also in test_trained.
def test_another_batch_and_number_of_devices_draw_the_same(folder, trained, run_verb):
    workdir, *_ = trained
    drawn = []
    for num_devices, more in ((1, ["--caption=a green star"]), (2, [])):
        out = folder / f"by_{num_devices}"
        arguments = [f"--workdir={workdir}", f"--out={out}", "--caption=a red circle", *more]
        done = run_verb("sample", *arguments, "--num_images=2", devices=num_devices)
        assert done.returncode == 0, done.stderr
        drawn.append(np.asarray(Image.open(out / "0000_a-red-circle_0.png"), int))
    assert np.max(np.abs(drawn[0] - drawn[1])) <= 1


def test_evaluate_and_report(trained, run_verb):
    workdir, *_ = trained
    done = run_verb("evaluate", f"--workdir={workdir}", "--step=6", "--split=test_comp")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    records = [r for r in records if r["kind"] == "eval"]
    values = {r["metric"]: r for r in records}
    assert "shapes_accuracy/colour" in values and "fd_vgg16" in values
    colour = values["shapes_accuracy/colour"]
    assert (colour["step"], colour["num_samples"], colour["ceiling"]) == (6, 2, 1.0)
    assert "test_comp" in colour["protocol"] and colour["low"] <= colour["value"] <= colour["high"]
    assert values["shapes_accuracy_trained/colour"]["weights"]
    assert values["fd_vgg16"]["weights"] and values["fd_vgg16"]["value"] > 0
    assert "shapes_accuracy/colour" in done.stdout and values["shapes_diversity"]["floor"] == 0

    done = run_verb("report", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    page = (workdir / "report.html").read_text()
    assert re.search("shapes.{0,20}accuracy.{0,20}colour", page) and "data:image/png;base64" in page


@pytest.mark.long
@pytest.mark.parametrize("kilobytes", [200, 2000])
def test_training_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(
    folder, run_verb, kilobytes
):
    command = ["train", *RUN, "--config.num_steps=4"]
    with small_disk(folder / f"disk{kilobytes}", kilobytes) as disk:
        done = run_verb(*command, f"--workdir={disk / 'run'}")
        assert done.returncode == 2, done.stderr
        (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
        assert "cannot" in line and str(disk) in line and "start again" in line
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        done = run_verb(*command, f"--workdir={disk / 'run'}")
        assert done.returncode == 0, done.stderr
        assert [r["step"] for r in train_records(disk / "run")] == [2, 4]


def test_workdir_of_another_model_is_left_alone(trained, run_verb):
    workdir, *_ = trained
    before = (workdir / "config.json").read_bytes()
    done = run_verb("train", *RUN, f"--workdir={workdir}", "--config.model.z_dim=9")
    assert_refused(done, "model.z_dim", "64", "9")
    assert (workdir / "config.json").read_bytes() == before


def test_sample_mistakes(folder, trained, run_verb):
    workdir, *_ = trained
    out = f"--out={folder / 'none'}"
    assert_refused(run_verb("sample", f"--workdir={workdir}", out), "--caption")
    assert_refused(run_verb("sample", f"--workdir={workdir}", out, "--caption= "), "empty")
    assert_refused(
        run_verb("sample", f"--workdir={folder / 'no'}", out, "--caption=x"), "no run in"
    )
    done = run_verb("sample", f"--workdir={workdir}", out, "--captions_file=/no/file")
    assert_refused(done, "/no/file")


def test_evaluate_mistakes(trained, run_verb):
    workdir, *_ = trained
    done = run_verb("evaluate", f"--workdir={workdir}", "--metrics=fid")
    assert_refused(done, "'fid'", "fd_vgg16")
