"""program.py: an exported model generates the same images without the libraries that built it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import xmc_jax
from tests import small_run
from tests.places import ROOT
from tests.verbs import COMPILE_FAST

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
