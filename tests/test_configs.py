"""Every experiment and every ablation row builds its networks and has every field checked."""

import importlib.util

import pytest

from tests.places import ROOT
from xmc_jax.configs import ablations
from xmc_jax.errors import UserError
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.run.config import flatten
from xmc_jax.run.config_checks import (
    FIELDS,
    check_accumulation,
    check_evaluation,
    check_model,
    check_training,
)

FILES = sorted((ROOT / "configs").glob("*_[0-9]*.py"))


def load(path, row=""):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(row)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_experiments_are_valid(path):
    config = load(path)
    check_training(config)
    assert config.model.resolution == int(path.stem.rpartition("_")[2])
    Generator(resolution=config.model.resolution, width=1, z_dim=config.model.z_dim)
    Discriminator(
        resolution=config.model.resolution,
        width=1,
        region_resolution=config.model.region_resolution,
    )


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("", "num_steps", 0, "num_steps=0 must be at least 1"),
        ("", "accumulation_steps", 0, "accumulation_steps=0 must be at least 1"),
        ("", "remat", "all", "remat='all' is not one of none, elementwise, blocks"),
        ("model", "resolution", 48, "model.resolution=48 is not one of 32, 64"),
        ("model", "contrastive_head", "deep", "head='deep' is not one of none, linear, mlp"),
        ("model", "dtype", "float16", "dtype='float16' is not one of float32, bfloat16"),
        ("text", "num_tokens", 2, "num_tokens=2 must be at least 3"),
        ("model", "z_dim", "64", "z_dim='64' is not of type int"),
        ("model", "bn_group_size", 5, "bn_group_size=5 does not divide config.batch_size=32"),
        ("data", "flip", 1, "flip=1 is not of type bool"),
        ("optimizer", "name", "sgd", "optimizer.name='sgd' is not one of adam, muon"),
        ("", "seed", -1, "seed=-1 must be at least 0"),
        ("eval", "seed", 2**31 - 1, "eval.seed=2147483647 must be at most 2147483646"),
        ("optimizer", "ema_decay", 1.5, "ema_decay=1.5 must be at most 1"),
        ("optimizer", "beta2", 1.0, "beta2=1.0 must be at most 0.9999"),
        ("optimizer", "beta1", float("nan"), "beta1=nan is not a finite number"),
        ("data", "cached_captions", -1, "cached_captions=-1 must be at least 0"),
        ("data", "longest_caption_until", 1.5, "caption_until=1.5 is after the end of .*from all"),
        ("text", "projection", 0.5, "projection=0.5 is not of type int"),
        ("model", "first_layer", "words", "'words' is not one of noise, noise_and_sentence"),
        ("optimizer", "decay_from", 1.5, "decay_from=1.5 is after the end of the run"),
        ("optimizer", "warmup_until", 1.5, "warmup_until=1.5 is after the end of .*and 0 keeps"),
        ("optimizer", "clip_norm", -1.0, "clip_norm=-1.0 must be at least 0"),
        ("loss", "variety_candidates", 1, "variety_candidates=1 must be at least 2"),
        ("loss", "r1_weight", "1", "r1_weight='1' is not of type float"),
        ("loss", "r1_every_steps", 0, "r1_every_steps=0 must be at least 1"),
        ("augment", "translation", 1.5, "augment.translation=1.5 must be at most 1"),
        ("augment", "color", -0.5, "augment.color=-0.5 must be at least 0"),
        ("eval", "every_steps", -1, "every_steps=-1 must be at least 0"),
    ],
)
def test_values_that_cannot_work_are_named(section, field, value, words):
    config = load(next(p for p in FILES if p.stem == "shapes_32"))
    with config.ignore_type():
        (config[section] if section else config)[field] = value
    with pytest.raises(UserError, match=words):
        check_training(config)


def test_parts_divide_the_images_of_a_device():
    check_accumulation(batch_size=32, accumulation_steps=4, num_devices=8)
    with pytest.raises(UserError, match="steps=3 does not divide the 4 .*; use one of 1, 2, 4"):
        check_accumulation(batch_size=32, accumulation_steps=3, num_devices=8)


def test_groups_divide_what_the_generator_draws_at_once():
    config = load(next(p for p in FILES if p.stem == "shapes_32"))
    config.model.bn_group_size, config.accumulation_steps = 16, 2
    check_training(config)
    config.accumulation_steps = 4
    with pytest.raises(UserError, match="bn_group_size=16 does not divide the 8 images of a part"):
        check_training(config)
    config.model.bn_group_size, config.loss.variety_weight = 8, 1.0
    with pytest.raises(UserError, match="variety_weight=1.0 .*bn_group_size=8 may not divide"):
        check_training(config)


def test_the_best_needs_a_checkpoint():
    config = load(next(p for p in FILES if p.stem == "shapes_32"))
    config.eval.every_steps = config.checkpoint_every_steps + 1
    check_training(config)
    config.eval.best_metric = "fd_vgg16"
    with pytest.raises(UserError, match="every_steps=251 is no multiple of .*=250"):
        check_training(config)


def test_what_is_squashed_cannot_be_cropped():
    config = load(next(p for p in FILES if p.stem == "coco_256"))
    config.data.crop = "short_crop"
    with pytest.raises(UserError, match="short_crop.* comes too late for config.data.form='sq256'"):
        check_training(config)
    config.data.form = "original"
    check_training(config)


def test_all_experiments_have_every_field_that_is_checked():
    for path in FILES:
        assert flatten(load(path).to_dict()).keys() == FIELDS.keys()


def test_a_field_too_many_or_too_few_is_named():
    config = load(next(p for p in FILES if p.stem == "shapes_32"))
    config.loss.word_wieght = 1.0
    with pytest.raises(UserError, match="no field loss.word_wieght; did you mean loss.word_weight"):
        check_training(config)
    del config.loss.word_wieght, config.loss.word_weight
    with pytest.raises(UserError, match="the config lacks the field loss.word_weight"):
        check_training(config)
    check_evaluation(config)
    del config.eval.clip
    with pytest.raises(UserError, match="the config lacks the field eval.clip"):
        check_evaluation(config)
    check_model(config)
    del config.model.modulation
    with pytest.raises(UserError, match="the config lacks the field model.modulation"):
        check_model(config)


@pytest.mark.parametrize("row", ablations.TERMS)
def test_rows_keep_their_terms(row):
    loss = load(next(p for p in FILES if p.stem == "coco_256"), row).loss
    kept = {term for term, field in ablations.FIELDS.items() if loss[field]}
    assert kept == set(ablations.TERMS[row])
    assert {loss[ablations.FIELDS[term]] for term in kept} <= {1.0}


def test_the_other_rows():
    path = next(p for p in FILES if p.stem == "coco_256")
    assert load(path, "self_modulation").model.modulation == "self"
    assert load(path, "per_device_negatives").loss.contrastive_group_size == 8
    with pytest.raises(ValueError, match="no ablation row 'swd'; there are none, s, w"):
        load(path, "swd")
