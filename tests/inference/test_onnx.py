"""onnx/: ONNX Runtime computes what the networks compute, from an exported folder alone."""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax.traverse_util import flatten_dict

import xmc_jax
from tests import bert, small_run
from tests.places import ROOT
from xmc_jax.errors import UserError
from xmc_jax.frozen import text_projection
from xmc_jax.frozen.text_encoder import load_text_encoder
from xmc_jax.inference import exported
from xmc_jax.inference.batches import make_noise
from xmc_jax.inference.export import export
from xmc_jax.inference.onnx import graph
from xmc_jax.inference.onnx.generator import build_generator
from xmc_jax.inference.onnx.text_encoder import build_text_encoder
from xmc_jax.models.generator import ATTENTION, Generator

CAPTIONS = ["a red circle", "red circles", "circle"]
MOST_TOKENS, TEXT_WIDTH, Z_DIM = 8, 6, 4
LENGTHS = np.array([8, 1, 5, 2, 7, 3, 6, 4, 0])  # Valid tokens of captions; the last has none.
FILES = (exported.ONNX_TEXT_ENCODER, exported.ONNX_GENERATOR)


def session(data):
    """Checks a model, and has its inputs and outputs computed, by name."""
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = onnxruntime.InferenceSession(data, options)
    names = [output.name for output in found.get_outputs()]
    return lambda **inputs: dict(zip(names, found.run(None, inputs), strict=True))


def shortened(name, x, length):
    """An array of captions that have so many tokens, with padding."""
    return x[:, :length] if name in ("tokens", "words", "word_mask") else x


# Numbers of captions, and of tokens with padding.
SIZES = [(count, MOST_TOKENS) for count in range(1, 10)] + [(9, length) for length in range(1, 8)]


@pytest.mark.parametrize(
    ("resolution", "options"),
    [
        (32, {}),
        (32, {"first_layer": "noise_and_sentence", "sentence_scale": 2.5}),
        (32, {"modulation": "self", "sentence_scale": 0.5}),
        (64, {"first_layer": "noise_and_sentence"}),
        (64, {"modulation": "self", "first_layer": "noise_and_sentence"}),
        pytest.param(128, {}, marks=pytest.mark.long),
        pytest.param(256, {}, marks=pytest.mark.long),
    ],
)
def test_the_generator_is_the_network(resolution, options, rng):
    generator = Generator(resolution, width=1, z_dim=Z_DIM, **options)
    mask = np.arange(MOST_TOKENS) < LENGTHS[:, None]
    text = [rng.normal(size=(9, *shape)) for shape in ((MOST_TOKENS, TEXT_WIDTH), (TEXT_WIDTH,))]
    z, words, sentence = map(np.float32, (rng.normal(size=(9, Z_DIM)), *text))
    words = np.where(mask[..., None], words, np.nan).astype(np.float32)
    inputs = {"z": z, "words": words, "sentence": sentence, "word_mask": mask}
    init = functools.partial(generator.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), **inputs)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    variables = small_run.draw_state(jax.tree.map(lambda x: x.update(sharding=device), shapes))
    apply = functools.partial(generator.apply, train=False, mutable=[ATTENTION])
    image, state = jax.jit(apply)(variables, **inputs)
    assert np.std(image) > 0.1 and np.mean(np.abs(image) > 0.99) < 0.5

    weights = {k: np.asarray(x) for k, x in flatten_dict(variables, sep="/").items()}
    run = session(build_generator(generator, weights, TEXT_WIDTH))
    for count, length in SIZES:
        chosen = {name: shortened(name, x[:count], length) for name, x in inputs.items()}
        # With fewer tokens, captions that lose some are others.
        kept = np.flatnonzero(LENGTHS[:count] <= length)
        found = run(**chosen)
        np.testing.assert_allclose(found["image"][kept], image[kept], atol=1e-4)
        assert ("attention" in found) == (generator.modulation == "attentional")
        if "attention" in found:
            (attention,) = state[ATTENTION]["weights"]
            expected = attention[kept][..., :length]
            np.testing.assert_allclose(found["attention"][kept], expected, atol=1e-5)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_the_text_encoder_is_the_network(activation, projected, folder, rng):
    config = bert.CONFIG | {"hidden_act": activation}
    weights = bert.weights(np.random.default_rng(0), config)
    # So small that a wrong epsilon of the layer normalisation would show.
    weights = {k: 1e-3 * x if "_embeddings" in k else x for k, x in weights.items()}
    name = bert.write(folder / activation, weights, config)
    encoder = load_text_encoder(name)
    if projected:
        encoder = text_projection.project(encoder, small_run.draw_projection(3))
    tokens = rng.integers(1, len(bert.VOCABULARY), (9, MOST_TOKENS), dtype=np.int32)
    tokens[np.arange(MOST_TOKENS) >= LENGTHS[:, None]] = 0
    names = ("words", "sentence", "word_mask")
    expected = dict(zip(names, jax.jit(encoder.apply)(encoder.params, tokens), strict=True))
    for dtype, tolerance in ((np.float32, 1e-4), (np.float16, 0.02)):
        run = session(build_text_encoder(encoder, dtype=dtype))
        for count, length in SIZES:
            found = run(tokens=tokens[:count, :length])
            kept = np.flatnonzero(LENGTHS[:count] <= length)
            for output, x in expected.items():
                wanted = shortened(output, x[kept], length)
                np.testing.assert_allclose(found[output][kept], wanted, atol=tolerance, rtol=1e-4)
        assert found["words"].dtype == np.float32 and np.abs(found["words"][-1]).max() == 0


def test_what_float16_cannot_hold_stays_float32(folder):
    weights = bert.weights(np.random.default_rng(0))
    weights["encoder.layer.0.output.dense.weight"][0, 0] = 1e5
    encoder = load_text_encoder(bert.write(folder / "large", weights))
    tokens = np.int32([[2, 5, 3]])
    words, _, _ = encoder.apply(encoder.params, jnp.asarray(tokens))
    found = session(build_text_encoder(encoder))(tokens=tokens)
    np.testing.assert_allclose(found["words"], words, atol=0.02)


@pytest.fixture(scope="module")
def workdir(folder):
    return small_run.make(folder)


@pytest.fixture(scope="module")
def model(folder, workdir, run_verb):
    out = folder / "model"
    done = run_verb("export", f"--workdir={workdir}", f"--out={out}", "--nostandalone", "--onnx")
    assert done.returncode == 0, done.stderr
    return out


def test_the_examples_generate_the_images_of_the_model(folder, workdir, model):
    """Those of the documentation and of the card, where nothing of the package is."""
    section = (ROOT / "docs" / "generating.md").read_text().partition("## ONNX Runtime")[2]
    (example,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.S)
    card = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.S)[-1]
    z = np.asarray(make_noise(len(CAPTIONS), 4, 7, 0))
    np.save(folder / "z.npy", z)
    code = f"""
import sys
for name in ("xmc_jax", "jax", "flax", "keras", "onnx"):
    sys.modules[name] = None
for code in {[card, example]!r}:
    exec(code)
    assert images.shape == (1, 32, 32, 3) and images.dtype == np.uint8
assert attention[0].shape == (1, 16, 16, len(ids))
tokens = np.zeros((3, 8), np.int32)
for row, caption in zip(tokens, {CAPTIONS!r}):
    ids = [split.ids["[CLS]"], *split(caption)[:6], split.ids["[SEP]"]]
    row[: len(ids)] = ids
words, sentence, word_mask = text_encoder.run(None, {{"tokens": tokens}})
inputs = {{"words": words, "sentence": sentence, "word_mask": word_mask}}
image, _ = generator.run(None, {{"z": np.load({str(folder / "z.npy")!r}), **inputs}})
np.save({str(folder / "image.npy")!r}, np.round((image + 1) * 127.5))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=model, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    generated = np.load(folder / "image.npy")
    images = xmc_jax.load(workdir).generate(CAPTIONS, seed=7)
    assert images.std() > 1 and np.abs(generated - images).max() <= 1


def test_the_files_belong_to_the_folder(model, workdir, tmp_path):
    manifest = json.loads((model / "model.json").read_text())
    for name in (*FILES, exported.TOKENIZER):
        digest = hashlib.sha256((model / name).read_bytes()).hexdigest()
        assert manifest["sha256"][name] == digest
    assert xmc_jax.load(model).step == small_run.STEP
    out = shutil.copytree(model, tmp_path / "out")
    export(str(workdir), str(out), standalone=False)
    assert not any((out / name).exists() for name in (*FILES, exported.TOKENIZER))
    assert not set(FILES) & json.loads((out / "model.json").read_text())["sha256"].keys()
    assert "onnxruntime" not in (out / "README.md").read_text()


def test_a_generator_in_float16(model, workdir, tmp_path):
    export(str(workdir), str(tmp_path), standalone=False, onnx=True, dtype="float16")
    half, whole = (folder / exported.ONNX_GENERATOR for folder in (tmp_path, model))
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    rng = np.random.default_rng(0)
    shapes = {"z": (2, 4), "words": (2, 5, 3), "sentence": (2, 3)}
    inputs = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    inputs["word_mask"] = np.ones((2, 5), bool)
    images = [session(path.read_bytes())(**inputs)["image"] for path in (half, whole)]
    assert 0 < np.abs(images[0] - images[1]).mean() < 0.01


def test_without_the_package_one_line_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        export("anywhere", str(tmp_path), onnx=True)
    message = str(error.value)
    assert message.startswith("--onnx and --web need the package onnx") and "\n" not in message
    assert message.endswith("-m pip install onnx")
    assert not list(tmp_path.iterdir())
