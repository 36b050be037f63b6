"""The paper's experiments from archives to pictures: prepare, train, sample, evaluate.

Everything but the size of the networks is what a user of the configs runs; the text encoder is a
small BERT with random weights in Hugging Face's format, the pretrained network a random VGG-19 in
Keras' format.
"""

import json

import numpy as np
import pytest
from PIL import Image

from tests import archives, bert, verbs
from xmc_jax.frozen import image_features

CONFIGS = {
    "coco_128": ("all", "coco", "sq128"),
    "coco_256": ("s_w", "coco", "sq256"),
    "ln_coco_256": ("s_w_d", "ln_coco", "sq256"),
}


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
    """What the user of each data set has downloaded."""
    folder = tmp_path_factory.mktemp("archives")
    val = {f"val{i}": archives.encode(archives.photograph(seed=i)) for i in range(4)}
    numbers = archives.coco(folder, {"train": archives.GOOD, "val": val})
    for split, names in (("train", archives.GOOD), ("val", val)):
        lines = [
            archives.narrative(split, numbers[name], f"In this image there is a {name} circle.")
            for name in names
        ]
        (folder / f"coco_{split}_captions.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory):
    config = bert.CONFIG | {"max_position_embeddings": 64}
    weights = bert.weights(np.random.default_rng(0), config)
    return bert.write(tmp_path_factory.mktemp("bert"), weights, config)


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.weights.h5"
    image_features._build("vgg19", 32).save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def run_verb(tmp_path_factory):
    """A verb that succeeds; gives what it printed."""
    data_dir = tmp_path_factory.mktemp("data")

    def run(verb, *arguments):
        done = verbs.run(verb, *arguments, data_dir=data_dir)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("name", CONFIGS)
def test_from_archives_to_pictures(name, run_verb, manual_dir, text_encoder, vgg19, tmp_path):
    row, dataset, form = CONFIGS[name]
    arguments = [f"--dataset={dataset}", f"--form={form}", f"--manual_dir={manual_dir}"]
    assert "train 8, val 4" in run_verb("prepare", *arguments)

    workdir = tmp_path / "run"
    overrides = {
        "text.encoder": text_encoder,
        "loss.image_pretrained_weights": vgg19,
        "loss.image_pretrained_resolution": 32,
        "model.generator_width": 1,
        "model.discriminator_width": 1,
        "model.z_dim": 4,
        "batch_size": 2,
        "eval.batch_size": 2,
        "log_every_steps": 1,
        "num_steps": 2,
    }
    overrides = [f"--config.{field}={value}" for field, value in overrides.items()]
    run_verb("train", f"--config=configs/{name}.py:{row}", f"--workdir={workdir}", *overrides)
    config = json.loads((workdir / "config.json").read_text())
    assert (config["data"]["name"], config["data"]["form"]) == (dataset, form)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["g/loss"]) for line in lines)
    assert ("g/image_pretrained" in lines[0]) == (row == "all")

    pictures = tmp_path / "pictures"
    run_verb("sample", f"--workdir={workdir}", "--caption=a red circle", f"--out={pictures}")
    first = next(pictures.glob("0000_*.png"))
    assert Image.open(first).size == (config["model"]["resolution"],) * 2

    assert "fd_vgg16" in run_verb("evaluate", f"--workdir={workdir}")
    record = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert (record["metric"], record["step"], record["num_samples"]) == ("fd_vgg16", 2, 2)
    assert np.isfinite(record["value"])
