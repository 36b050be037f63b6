"""export.py and exported.py: a run becomes a folder that generates the same images anywhere."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import xmc_jax
from tests import bert, small_run
from tests.disks import small_disk
from tests.places import ROOT
from tests.verbs import COMPILE_FAST, assert_refused
from xmc_jax.errors import UserError
from xmc_jax.inference import exported
from xmc_jax.inference.export import export, to_storage
from xmc_jax.inference.sample import sample
from xmc_jax.run.records import append_metrics

CAPTIONS = ["a red circle", "red circles", "circle"]


@pytest.fixture(scope="module")
def workdir(folder):
    return small_run.make(folder)


@pytest.fixture(scope="module")
def whole(folder, workdir, run_verb):
    """Exported by the verb."""
    out = folder / "whole"
    done = run_verb("export", f"--workdir={workdir}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert f"exported step {small_run.STEP}" in done.stdout
    return out


@pytest.fixture(scope="module")
def half(folder, workdir):
    export(str(workdir), str(folder / "half"), dtype="float16", standalone=False)
    return folder / "half"


@pytest.fixture(scope="module")
def images(workdir):
    return xmc_jax.load(workdir).generate(CAPTIONS, seed=7)


def test_an_exported_model_generates_the_same_images(whole, images):
    model = xmc_jax.load(whole)
    assert model.step == small_run.STEP
    np.testing.assert_array_equal(model.generate(CAPTIONS, seed=7), images)


def test_the_program_generates_the_same_images_without_the_package(folder, whole, images):
    """In a process that cannot import the packages of training."""
    card = (whole / "README.md").read_text()
    _, *blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 2
    arguments = [f"--caption={caption}" for caption in CAPTIONS[:2]]
    arguments += ["--seed=7", f"--out={folder / 'image'}"]
    code = f"""
import runpy, sys, numpy as np
class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"xmc_jax", "flax", "keras", "keras_hub", "tensorflow", "orbax"}}:
            raise ImportError(name + " is closed")
sys.meta_path.insert(0, Closed())
from generate import load
generate = load(".")
for block in {blocks!r}:  # The card's own examples.
    exec(block)
    assert images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3)
assert np.any(images[0] != images[1])
np.save({str(folder / "images.npy")!r}, generate({CAPTIONS!r}, seed=7))
sys.argv = ["generate.py", *{arguments!r}]
runpy.run_path("generate.py", run_name="__main__")
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["XLA_FLAGS"] = COMPILE_FAST
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=whole, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    generated = np.load(folder / "images.npy")
    # Another compilation: rounding of sums may move a pixel by one level.
    assert generated.dtype == np.uint8 and generated.shape == images.shape
    assert np.abs(generated.astype(int) - images.astype(int)).max() <= 1
    written = [np.asarray(Image.open(folder / f"image_{i}.png")) for i in range(2)]
    np.testing.assert_array_equal(written, generated[:2])


def test_half_the_size_and_nearly_the_same_images(whole, half, images):
    size = {path: (path / exported.WEIGHTS).stat().st_size for path in (whole, half)}
    assert size[half] < 0.75 * size[whole]
    stored = load_file(half / exported.WEIGHTS)
    assert {str(x.dtype) for name, x in stored.items() if "params/" in name} == {"float16"}
    assert {str(x.dtype) for name, x in stored.items() if "batch_stats/" in name} == {"float32"}
    generated = xmc_jax.load(half).generate(CAPTIONS, seed=7)
    assert np.abs(generated.astype(int) - images.astype(int)).mean() < 0.5
    assert not (half / exported.PROGRAM).exists() and not (half / exported.SCRIPT).exists()


def test_values_beyond_float16_are_refused():
    ema = {"params": {"x": np.float32([1, 70_000])}, "batch_stats": {"var": np.float32([1e6])}}
    with pytest.raises(UserError, match="params/x has values that float16 cannot hold"):
        to_storage(ema, "float16")
    assert to_storage(ema, "float32")["params/x"][1] == 70_000
    with pytest.raises(UserError, match="int8 is not one of float32, float16"):
        to_storage(ema, "int8")


def test_the_card_describes_the_model(whole, half):
    card = (whole / "README.md").read_text()
    for words in (
        "whole",
        "32x32",
        "shapes",
        "12.35",
        "3 steps",
        "generate.py",
        "licen",
        "patents",
    ):
        assert words in card
    assert "999" not in card  # Of another step.
    data = huggingface_hub.ModelCard(card).data
    found = (data.license, data.library_name, data.pipeline_tag, data.language, data.model_name)
    assert found == ("apache-2.0", "xmc_jax", "text-to-image", "en", "whole")
    assert {"text-to-image", "jax"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("fd_vgg16", 12.345)
    assert (result.dataset_name, result.metric_args["num_samples"]) == ("shapes", 7)
    assert "program.stablehlo" not in (half / "README.md").read_text()
    manifest = json.loads((whole / "model.json").read_text())
    assert manifest["text_encoder"]["fingerprint"] in card


def test_the_card_names_the_model_that_a_run_started_from(whole, workdir, tmp_path):
    assert "| start |" not in (whole / "README.md").read_text()
    run, out = shutil.copytree(workdir, tmp_path / "run"), tmp_path / "out"
    append_metrics(run, [{"kind": "start", "step": 0, "init_from": "/home/me/runs/small"}])
    export(str(run), str(out), standalone=False)
    card = (out / "README.md").read_text()
    assert "| start | the parameters of `small`, where they fit |\n| batch" in card
    assert "/home" not in card and "a red circle" in card


def test_a_config_without_fields_of_training(workdir, tmp_path):
    run, out = shutil.copytree(workdir, tmp_path / "run"), tmp_path / "out"
    fields = json.loads((run / "config.json").read_text())
    bare = {name: fields[name] for name in ("model", "text")} | {"loss": {"word_weight": 0.5}}
    (run / "config.json").write_text(json.dumps(bare))
    export(str(run), str(out), standalone=False)
    assert xmc_jax.load(out).step == small_run.STEP
    card = (out / "README.md").read_text()
    assert "| contrastive weights | word 0.5 |\n" in card and "| steps | 3 generator" in card
    for absent in ("| data |", "| batch |", "learning rates", "| seed |", "None", "Undefined"):
        assert absent not in card


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "vocab.txt"])
def test_changed_and_missing_files_are_named(half, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(half, copy)
    with open(copy / name, "ab") as file:
        file.write(b"\n")
    with pytest.raises(UserError, match=rf"{name} is not the file that was exported"):
        xmc_jax.load(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=rf"{name}"):
        xmc_jax.load(copy)


def test_a_damaged_or_missing_projection_is_named(half, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(half, copy)
    path = copy / "text_projection.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-4] + bytes(4))
    with pytest.raises(UserError, match="projection.safetensors is not the file that was exported"):
        xmc_jax.load(copy)
    path.write_bytes(data[:-4])
    with pytest.raises(UserError, match="projection.safetensors is damaged"):
        xmc_jax.load(copy)
    path.unlink()
    with pytest.raises(UserError, match="projection=3 needs it: copy the whole folder"):
        xmc_jax.load(copy)


def test_another_text_encoder_is_refused(half, tmp_path):
    other = bert.write(tmp_path / "other", bert.weights(np.random.default_rng(5)))
    with pytest.raises(UserError, match="is not the one that the model in"):
        xmc_jax.load(half, text_encoder=other)


def test_manifests_that_cannot_be_read(half, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(half, copy)
    manifest = json.loads((copy / "model.json").read_text())
    for text, words in (
        (json.dumps(manifest | {"format": 2}), "format 2.* install version"),
        (json.dumps({"format": 1}), "is damaged"),
        ("{", "is damaged"),
        (10_000 * "[", "is damaged"),
        (json.dumps(manifest | {"sha256": 5}), "is damaged .sha256 is not of the type dict"),
        (json.dumps(manifest | {"text_encoder": {}}), "is damaged"),
        (json.dumps(manifest | {"step": "\x1b[2J"}), "is damaged .step is not of the type int"),
    ):
        (copy / "model.json").write_text(text)
        with pytest.raises(UserError, match=words):
            xmc_jax.load(copy)


def test_a_folder_of_something_else_is_left_alone(half, workdir, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no exported model"):
        export(str(workdir), str(tmp_path), standalone=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_older_export_is_replaced(half, workdir, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(half, out)
    (out / exported.PROGRAM).write_text("of an older export")
    export(str(workdir), str(out), standalone=False)
    assert not (out / exported.PROGRAM).exists()
    assert json.loads((out / "model.json").read_text())["dtype"] == "float32"
    with pytest.raises(UserError, match="is an exported model of step 3; it has no step 9"):
        xmc_jax.load(out, step=9)


def test_a_full_disk_leaves_the_older_model_or_a_folder_to_write_again(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        out = exported.open_folder(disk / "out")
        exported.write(out, {"step": 1}, {"a": b"1"})
        whole = (out / "model.json").read_bytes()
        (disk / "mine").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(UserError, match="No space left on device; mend that and export"):
            exported.write(out, {"step": 2}, {"a": b"2"})
        assert (out / "model.json").read_bytes() == whole and (out / "a").read_bytes() == b"1"
        (disk / "mine").unlink()
        with pytest.raises(UserError, match="No space left on device; mend that and export"):
            exported.write(out, {"step": 2}, {"a": b"2", "b": bytes(100_000)})
        assert not exported.is_exported(out)
        exported.write(exported.open_folder(out), {"step": 3}, {"a": b"3"})
        assert {path.name for path in out.iterdir()} == {"model.json", "a"}


# Ends while the third file is written: model.json, `a`, `b`.
KILLED = """
import os, signal, sys
from xmc_jax.inference import exported
count, fsync = iter(range(3)), os.fsync
def kill(file):
    os.kill(os.getpid(), signal.SIGKILL) if next(count) == 2 else fsync(file)
os.fsync = kill
exported.write(exported.open_folder(sys.argv[1]), {"step": 1}, {"a": b"1", "b": b"1"})
"""


def test_a_killed_export_starts_again(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {".unfinished", "a"}
    out = exported.open_folder(tmp_path)
    exported.write(out, {"step": 2}, {"a": b"2"})
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "a"}


def test_a_model_without_manifest_is_not_taken_for_a_run(half, tmp_path):
    for name in (".unfinished", "weights.safetensors"):
        copy = tmp_path / name
        copy.mkdir()
        shutil.copy(half / "config.json", copy)
        (copy / name).mkdir()
        with pytest.raises(UserError, match="model.json is missing: the model was not exported or"):
            xmc_jax.load(copy)


def test_what_cannot_be_generated(half):
    model = xmc_jax.load(half)
    for options in ({"num_images": 0}, {"seed": 2**31}, {"seed": -(2**31) - 1}):
        with pytest.raises(UserError, match="(num_images|seed)=.*; give"):
            model.generate(["a red circle"], **options)
    with pytest.raises(UserError, match="batch_size=0 holds no caption"):
        xmc_jax.load(half, batch_size=0).generate(["a red circle"])


def test_the_program_names_what_is_wrong(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "config.json").unlink()  # It reads no such file.

    def run(*arguments):
        command = [sys.executable, copy / "generate.py", f"--out={tmp_path / 'new/image'}"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True)

    assert run("--caption=a red circle").returncode == 0
    assert (tmp_path / "new/image_0.png").exists()
    assert "no int32" in run("--caption=a", "--seed=2147483648").stderr.splitlines()[-1]
    (line,) = run("--caption= ").stderr.splitlines()
    assert line == "error: a caption is empty; write what the image should show"
    (copy / "text_encoder.safetensors").unlink()
    (line,) = run("--caption=a").stderr.splitlines()
    assert line.startswith("error: cannot read ") and "text_encoder.safetensors" in line


def test_sample_writes_the_images_of_a_model(half, images, tmp_path):
    generated = xmc_jax.load(half).generate(CAPTIONS, seed=7)
    assert np.abs(generated.astype(int) - images.astype(int)).mean() < 0.5
    sample(half, CAPTIONS, tmp_path / "out", num_images=1, seed=7)
    first = np.asarray(Image.open(tmp_path / "out" / "0000_a-red-circle_0.png"))
    np.testing.assert_array_equal(first, generated[0])


def test_the_verbs_name_what_is_missing(folder, run_verb):
    assert_refused(run_verb("sample", "--demo", "--workdir=x", "--caption=y"), "give one of them")
    done = run_verb("sample", "--demo=x", "--caption=y")
    assert_refused(done, "no demo 'x'; there are shapes, scenes, emoji")
    assert_refused(run_verb("export", "--workdir=x"), "--out is missing")
    done = run_verb("export", f"--workdir={folder / 'none'}", f"--out={folder / 'o'}")
    assert_refused(done, "no run in")
    done = run_verb("sample", "--workdir=~/none", "--caption=y")  # Shells leave this ~ as it is.
    assert_refused(done, f"no run in {Path.home() / 'none'}")
