"""The paper's experiments from archives to images: prepare, train, sample, evaluate.

Everything but the size of the networks is what a user of the configs runs; the text encoder is a
small BERT with random weights in Hugging Face's format, the pretrained network a random VGG-19 in
Keras' format.
"""

import importlib
import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests import archives, bert
from tests.data.builders.test_ln_open_images import SPLITS, publish
from tests.data.builders.test_ln_open_images import name as open_images_name
from xmc_jax.data import catalog
from xmc_jax.data.builders.captioned import Settings
from xmc_jax.evaluation.run import evaluate
from xmc_jax.frozen import image_features
from xmc_jax.inference.sample import sample
from xmc_jax.parallel import sharding
from xmc_jax.training.start import train

CONFIGS = {
    "coco_128": ("all", "coco", "sq128"),
    "coco_256": ("s_w", "coco", "sq256"),
    "ln_coco_256": ("s_w_d", "ln_coco", "sq256"),
    "ln_open_images_256": ("d", "ln_open_images", "sq256"),
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

    splits = SPLITS | {"val": range(10, 14)}
    publish(folder, splits)
    (folder / "open_images").mkdir()
    for number in {n for numbers in splits.values() for n in numbers}:
        path = folder / "open_images" / f"{open_images_name(number)}.jpg"
        path.write_bytes(archives.encode(archives.photograph(seed=number)))
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
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Eight fake devices would take turns on these images."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(
        sharding, "make_mesh", lambda devices, fsdp: make_mesh(jax.devices()[:1], fsdp=fsdp)
    )


# One of the four is enough for every day.
@pytest.mark.parametrize(
    "name",
    [
        "coco_128",
        pytest.param("coco_256", marks=pytest.mark.long),
        pytest.param("ln_coco_256", marks=pytest.mark.long),
        pytest.param("ln_open_images_256", marks=pytest.mark.long),
    ],
)
def test_from_archives_to_images(name, manual_dir, data_dir, text_encoder, vgg19, tmp_path):
    row, dataset, form = CONFIGS[name]
    builder = catalog.make_builder(dataset, form=form, data_dir=data_dir)
    catalog.build(builder, Settings(manual_dir=manual_dir))

    config = importlib.import_module(f"configs.{name}").get_config(row)
    assert (config.data.name, config.data.form) == (dataset, form)
    config.text.encoder = text_encoder
    config.loss.image_pretrained_weights = vgg19
    config.loss.image_pretrained_resolution = 32
    config.model.generator_width = config.model.discriminator_width = 1
    config.model.z_dim = 4
    config.batch_size = config.eval.batch_size = 2
    config.num_steps = 2
    config.d_steps = 1  # Half as much to compile.
    config.log_every_steps = 1
    workdir = tmp_path / "run"
    train(config, str(workdir), data_dir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["g/loss"]) for line in lines)
    assert ("g/image_pretrained" in lines[0]) == (row == "all")

    sample(str(workdir), ["a red circle"], tmp_path / "images", num_images=1)
    (image,) = (tmp_path / "images").glob("0000_*.png")
    assert np.asarray(Image.open(image)).shape[:2] == (config.model.resolution,) * 2

    records = evaluate(str(workdir), data_dir)
    nearest = [f"nearest_train_vgg16/{name}" for name in ("distance", "near")]
    assert [record.metric for record in records] == ["fd_vgg16", *nearest]
    for record in records:
        assert (record.step, record.num_samples) == (2, 4)
        assert np.isfinite(record.value)
