"""Configs that cannot work, refused before anything slow begins.

Three checks, each for what it needs: `check_model` for generating images, `check_evaluation` for
measuring them besides, `check_training` for all of a config.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from xmc_jax.data.overlap import evaluation_data, why_refused
from xmc_jax.errors import UserError, did_you_mean
from xmc_jax.models.discriminator import CONTRASTIVE_HEADS
from xmc_jax.models.generator import CHANNEL_MULTIPLIERS, FIRST_LAYERS, MODULATIONS
from xmc_jax.models.remat import REMAT_POLICIES
from xmc_jax.run.config import flatten


class Field(NamedTuple):
    """What a field of the config may be.

    Attributes:
      kind: Its type. An int may stand where a float is wanted.
      minimum: Smallest value of a number.
      maximum: Largest value of a number.
      choices: All values, if there are few.
    """

    kind: type
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple = ()


_COUNT, _SIZE_OR_0, _NUMBER = Field(int, 1), Field(int, 0), Field(float, 0)
_FRACTION, _BELOW_1 = Field(float, 0, 1), Field(float, 0, math.nextafter(1, 0))
_SEED = Field(int, 0, 2**31 - 2)  # An int32, and so is the next one, which noise has.
_SWITCH, _TEXT = Field(bool), Field(str)

# Every field of a config; configs/shapes_32.py says what each means.
FIELDS = {
    "seed": _SEED,
    "num_steps": _COUNT,
    "batch_size": _COUNT,
    "d_steps": _COUNT,
    "accumulation_steps": _COUNT,
    "remat": Field(str, choices=tuple(REMAT_POLICIES)),
    "log_every_steps": _COUNT,
    "sample_every_steps": _COUNT,
    "checkpoint_every_steps": _COUNT,
    "keep_checkpoints": _COUNT,
    "max_nonfinite_skips": _SIZE_OR_0,
    "data.name": _TEXT,
    "data.form": _TEXT,
    "data.eval_name": _TEXT,
    "data.flip": _SWITCH,
    "data.crop": Field(str, choices=("squash", "short_crop", "center_crop")),
    "data.antialias": _SWITCH,
    "data.train_split": _TEXT,
    "data.eval_split": _TEXT,
    "data.cached_captions": _SIZE_OR_0,
    "data.longest_caption_until": _NUMBER,
    "text.encoder": _TEXT,
    "text.num_tokens": Field(int, 3),  # [CLS], a word, [SEP].
    "text.projection": _SIZE_OR_0,
    "model.resolution": Field(int, choices=tuple(CHANNEL_MULTIPLIERS)),
    "model.generator_width": _COUNT,
    "model.discriminator_width": _COUNT,
    "model.z_dim": _COUNT,
    "model.modulation": Field(str, choices=MODULATIONS),
    "model.first_layer": Field(str, choices=FIRST_LAYERS),
    "model.sentence_scale": _NUMBER,
    "model.contrastive_head": Field(str, choices=tuple(CONTRASTIVE_HEADS)),
    "model.bn_group_size": _SIZE_OR_0,
    "model.region_resolution": _COUNT,
    "model.dtype": Field(str, choices=("float32", "bfloat16")),
    "loss.sentence_weight": _NUMBER,
    "loss.word_weight": _NUMBER,
    "loss.image_d_weight": _NUMBER,
    "loss.image_pretrained_weight": _NUMBER,
    "loss.image_pretrained_network": _TEXT,
    "loss.image_pretrained_weights": _TEXT,
    "loss.image_pretrained_resolution": _COUNT,
    "loss.contrastive_group_size": _SIZE_OR_0,
    "loss.instance_noise": _NUMBER,
    "loss.variety_weight": _NUMBER,
    "loss.variety_candidates": Field(int, 2),
    "loss.r1_weight": _NUMBER,
    "loss.r1_every_steps": _COUNT,
    "augment.translation": _FRACTION,
    "augment.color": _FRACTION,
    "augment.cutout": _FRACTION,
    "optimizer.name": Field(str, choices=("adam", "muon")),
    "optimizer.generator_learning_rate": _NUMBER,
    "optimizer.discriminator_learning_rate": _NUMBER,
    "optimizer.beta1": _BELOW_1,
    "optimizer.beta2": _BELOW_1,
    "optimizer.ema_decay": _FRACTION,
    "optimizer.clip_norm": _NUMBER,
    "optimizer.warmup_until": _NUMBER,
    "optimizer.decay_from": _NUMBER,
    "eval.num_examples": _COUNT,
    "eval.batch_size": _COUNT,
    "eval.seed": _SEED,
    "eval.inception_weights": _TEXT,
    "eval.clip": _TEXT,
    "eval.detector": _TEXT,
    "eval.dinov2": _TEXT,
    "eval.every_steps": _SIZE_OR_0,
    "eval.best_metric": _TEXT,
}


_ONLY_TRAINING = (
    "data.flip",
    "data.train_split",
    "data.cached_captions",
    "data.longest_caption_until",
)


def check_model(config: ConfigDict) -> None:
    """Refuses networks that cannot be built: what generating images needs, and no more.

    Fields of other sections may be absent, unknown or wrong.

    Raises:
      UserError: naming a field of ``model`` or ``text``, its value and the values that work.
    """
    _check_fields(config, ("model", "text"))


def check_evaluation(config: ConfigDict) -> None:
    """Refuses what cannot be measured: `check_model`, and what evaluations need besides.

    Raises:
      UserError: naming a field of ``model``, ``text``, ``data`` or ``eval``.
    """
    check_model(config)
    _check_fields(config, ("data", "eval"), without=_ONLY_TRAINING)
    _check_data(config)


def check_training(config: ConfigDict) -> None:
    """Refuses a config that training cannot use, one that lacks a field or has one too many.

    Raises:
      UserError: naming the field, its value and the values that work.
    """
    names = flatten(config.to_dict())
    for name in names:
        if name not in FIELDS:
            raise UserError(f"the config has no field {name}{did_you_mean(name, FIELDS)}")
    check_evaluation(config)
    _check_fields(config, ("", "data", "loss", "augment", "optimizer"))
    _check_groups(config)
    _check_periods(config)


def check_accumulation(batch_size: int, accumulation_steps: int, num_devices: int) -> None:
    """Refuses a number of parts that does not divide the images of a device.

    Raises:
      UserError: naming the numbers that work.
    """
    on_device = batch_size // num_devices
    if on_device % accumulation_steps:
        divisors = [n for n in range(1, on_device + 1) if on_device % n == 0]
        raise UserError(
            f"config.accumulation_steps={accumulation_steps} does not divide the "
            f"{on_device} images of a device; use one of {', '.join(map(str, divisors))}"
        )


def _check_fields(
    config: ConfigDict, sections: tuple[str, ...], *, without: tuple[str, ...] = ()
) -> None:
    values = flatten(config.to_dict())
    for name, field in FIELDS.items():
        if name.rpartition(".")[0] in sections and name not in without:
            _check_field(name, field, values)


def _check_field(name: str, field: Field, values: Mapping[str, Any]) -> None:
    if name not in values:
        raise UserError(
            f"the config lacks the field {name}; configs/ has it: add it, or use the version of "
            "this package that the config was written for"
        )
    value = values[name]
    wanted = (int, float) if field.kind is float else field.kind
    if not isinstance(value, wanted) or isinstance(value, bool) != (field.kind is bool):
        raise UserError(f"config.{name}={value!r} is not of type {field.kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config.{name}={value} is not a finite number")
    if field.choices and value not in field.choices:
        raise UserError(
            f"config.{name}={value!r} is not one of {', '.join(map(str, field.choices))}"
        )
    if field.minimum is not None and value < field.minimum:
        raise UserError(f"config.{name}={value} must be at least {field.minimum}")
    if field.maximum is not None and value > field.maximum:
        raise UserError(f"config.{name}={value} must be at most {field.maximum}")


def _check_groups(config: ConfigDict) -> None:
    for section, field in (("loss", "contrastive_group_size"), ("model", "bn_group_size")):
        size = config[section][field]
        if size and config.batch_size % size:
            raise UserError(
                f"config.{section}.{field}={size} does not divide config.batch_size="
                f"{config.batch_size}; 0 makes one group of the whole batch"
            )
    if not (size := config.model.bn_group_size):
        return
    if (part := config.batch_size // config.accumulation_steps) % size:
        raise UserError(
            f"config.model.bn_group_size={size} does not divide the {part} images of a part; 0 "
            "makes one group of them, and fewer config.accumulation_steps larger parts"
        )
    if config.loss.variety_weight:
        raise UserError(
            f"config.loss.variety_weight={config.loss.variety_weight} generates batches of other "
            f"sizes, which config.model.bn_group_size={size} may not divide; set one of them to 0"
        )


def _check_periods(config: ConfigDict) -> None:
    for section, field, off in (
        ("optimizer", "warmup_until", "0 keeps the learning rates as they are"),
        ("optimizer", "decay_from", "1 keeps the learning rates as they are"),
        ("data", "longest_caption_until", "0 draws from all captions throughout"),
    ):
        if (fraction := config[section][field]) > 1:
            raise UserError(
                f"config.{section}.{field}={fraction} is after the end of the run; it is a "
                f"fraction of config.num_steps, and {off}"
            )
    every_steps = config.eval.every_steps
    if config.eval.best_metric and every_steps % config.checkpoint_every_steps:
        raise UserError(
            f"config.eval.every_steps={every_steps} is no multiple of "
            f"config.checkpoint_every_steps={config.checkpoint_every_steps}: the best step may "
            "have no checkpoint to keep"
        )


def _check_data(config: ConfigDict) -> None:
    data, resolution = config.data, config.model.resolution
    side = re.search(r"(?:^|_)sq([0-9]{1,5})(?:_|$)", data.form)
    if side and int(side[1]) < resolution:
        raise UserError(
            f"config.data.form={data.form!r} has images of {side[1]} pixels, fewer than "
            f"config.model.resolution={resolution}; prepare and name a larger form"
        )
    if side and data.crop != "squash" and data.name != "shapes":
        raise UserError(
            f"config.data.crop={data.crop!r} comes too late for config.data.form={data.form!r}, "
            "whose images were squashed when they were prepared; use a form of original images"
        )
    if reason := why_refused(data.name, evaluation_data(config)):
        raise UserError(
            f"config.data.name={data.name!r} cannot be evaluated on config.data.eval_name="
            f"{data.eval_name!r}: {reason}"
        )
