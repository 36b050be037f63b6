"""model.py: four lines in a notebook, and the same images as the verb `sample`."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import xmc_jax
from tests import small_run
from xmc_jax import demo
from xmc_jax.errors import UserError
from xmc_jax.inference.sample import sample

CAPTIONS = ["a red circle", "red circles", "circle"]


@pytest.fixture(scope="module")
def workdir(folder):
    return small_run.make(folder)


@pytest.fixture(scope="module")
def model(workdir):
    return xmc_jax.load(workdir)


def test_generate(model):
    images = model.generate(CAPTIONS, seed=0)
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8
    assert model.step == small_run.STEP
    assert len(np.unique(images)) > 20
    np.testing.assert_array_equal(images, model.generate(CAPTIONS))
    assert np.any(images != model.generate(CAPTIONS, seed=1))
    assert np.any(images != model.generate(CAPTIONS[::-1])[::-1])


def test_images_of_one_caption_are_consecutive(model):
    images = model.generate(CAPTIONS[:2], num_images=3, seed=5)
    again = model.generate([CAPTIONS[0]] * 3 + [CAPTIONS[1]] * 3, seed=5)
    np.testing.assert_array_equal(images, again)
    assert len({image.tobytes() for image in images}) == 6


def test_any_number_of_captions_compiles_only_for_a_few_sizes(model):
    for count in (1, 2, 5, 9, 16, 17, 30):
        assert len(model.generate(["red circle"] * count)) == count
    # For eight devices: 8 and 16 captions.
    assert model._sampler._step._cache_size() <= 2


def test_same_images_as_in_the_files_of_the_verb(folder, workdir, model):
    out = folder / "images"
    sample(workdir, CAPTIONS, out, num_images=2, seed=3)
    names = sorted(path for path in out.iterdir() if path.name != "grid.png")
    written = np.stack([np.asarray(Image.open(path)) for path in names])
    np.testing.assert_array_equal(written, model.generate(CAPTIONS, num_images=2, seed=3))


def test_the_text_encoder_in_another_folder(folder, workdir, model):
    moved = folder / "moved"
    shutil.copytree(folder / "bert", moved)
    elsewhere = xmc_jax.load(workdir, text_encoder=str(moved))
    np.testing.assert_array_equal(elsewhere.generate(CAPTIONS), model.generate(CAPTIONS))


def test_mistakes_are_named(folder, workdir, model):
    with pytest.raises(UserError, match=r"one string; give a list .*\[caption\]"):
        model.generate("a red circle")
    with pytest.raises(UserError, match="no captions"):
        model.generate([])
    with pytest.raises(UserError, match="a caption is empty"):
        model.generate(["red", " "])
    with pytest.raises(UserError, match="no run in"):
        xmc_jax.load(folder / "nothing")
    with pytest.raises(UserError, match="no checkpoint of step 4 .* there are 3"):
        xmc_jax.load(workdir, step=4)
    old = folder / "old"
    old.mkdir()
    config = json.loads((workdir / "config.json").read_text())
    del config["text"]["num_tokens"]
    (old / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="lacks the field text.num_tokens"):
        xmc_jax.load(old)


def test_a_missing_demo_names_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match=r"no demo model in .*python -m xmc_jax\.export --workdir"):
        xmc_jax.load_demo()
    with pytest.raises(UserError, match="no demo 'photographs'; there are shapes, scenes, emoji"):
        xmc_jax.load_demo("photographs")


def test_importing_the_package_is_cheap():
    code = "import sys, xmc_jax; print('jax' in sys.modules, 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
