"""Values of the config that no run can use, refused before anything is loaded."""

import re

from jax.sharding import Mesh
from ml_collections import ConfigDict

from xmc_jax.data.overlap import evaluation_data, why_refused
from xmc_jax.errors import UserError
from xmc_jax.models.discriminator import CONTRASTIVE_HEADS
from xmc_jax.models.generator import CHANNEL_MULTIPLIERS, MODULATIONS
from xmc_jax.train_step import REMAT_POLICIES

AT_LEAST_1 = (
    "batch_size",
    "d_steps",
    "accumulation_steps",
    "num_steps",
    "log_every_steps",
    "sample_every_steps",
    "checkpoint_every_steps",
    "model.generator_width",
    "model.discriminator_width",
    "model.z_dim",
    "eval.num_examples",
    "eval.batch_size",
)
CHOICES = {
    "model.resolution": tuple(CHANNEL_MULTIPLIERS),
    "model.modulation": MODULATIONS,
    "model.contrastive_head": tuple(CONTRASTIVE_HEADS),
    "remat": tuple(REMAT_POLICIES),
    "model.dtype": ("float32", "bfloat16"),
    "data.crop": ("squash", "short_crop", "center_crop"),
}
GROUP_SIZES = ("loss.contrastive_group_size", "model.bn_group_size")


def check_accumulation(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses a number of parts that does not divide the batch of a device.

    Raises:
      UserError: naming the numbers that work.
    """
    on_device = config.batch_size // mesh.size
    if on_device % config.accumulation_steps:
        divisors = [n for n in range(1, on_device + 1) if on_device % n == 0]
        raise UserError(
            f"config.accumulation_steps={config.accumulation_steps} does not divide the "
            f"{on_device} images of a device; use one of {', '.join(map(str, divisors))}"
        )


def check_config(config: ConfigDict) -> None:
    """Refuses values that no run can use, and a config that lacks a field.

    Raises:
      UserError: naming the field, its value and the values that work.
    """
    try:
        _check_types(config)
        _check_values(config)
        _check_periods(config)
        _check_data(config)
    except (AttributeError, KeyError) as error:
        name = str(error).strip("\"'")
        raise UserError(
            f"the config has no field {name}; if another version of this package wrote it, "
            "train anew, or use that version"
        ) from error
    except TypeError as error:
        raise UserError(f"a field of the config has a value of the wrong type: {error}") from error


def _value(config: ConfigDict, name: str):
    for part in name.split("."):
        config = config[part]
    return config


def _check_types(config: ConfigDict) -> None:
    for name, value in config.items():
        fields = value.items() if isinstance(value, ConfigDict) else [("", value)]
        for field, x in fields:
            if x is None or isinstance(x, ConfigDict) or x != x:
                full = f"{name}.{field}".strip(".")
                raise UserError(f"config.{full}={x!r} is neither a number nor text")


def _check_values(config: ConfigDict) -> None:
    for name in AT_LEAST_1:
        if (value := _value(config, name)) < 1:
            raise UserError(f"config.{name}={value} must be at least 1")
    for name, known in CHOICES.items():
        if (value := _value(config, name)) not in known:
            raise UserError(f"config.{name}={value!r} is not one of {', '.join(map(str, known))}")
    for name in GROUP_SIZES:
        size = _value(config, name)
        if size < 0 or (size and config.batch_size % size):
            raise UserError(
                f"config.{name}={size} does not divide config.batch_size={config.batch_size}; "
                "0 makes one group of the whole batch"
            )
    if config.text.num_tokens < 3:
        raise UserError(
            f"config.text.num_tokens={config.text.num_tokens} leaves no room for a word between "
            "[CLS] and [SEP]; give at least 3"
        )


def _check_periods(config: ConfigDict) -> None:
    every_steps = config.eval.every_steps
    if every_steps < 0:
        raise UserError(f"config.eval.every_steps={every_steps}: 0 means never")
    if config.eval.best_metric and every_steps % config.checkpoint_every_steps:
        raise UserError(
            f"config.eval.every_steps={every_steps} is no multiple of "
            f"config.checkpoint_every_steps={config.checkpoint_every_steps}: the best may have no "
            "checkpoint to keep"
        )


def _check_data(config: ConfigDict) -> None:
    data, resolution = config.data, config.model.resolution
    side = re.search(r"(?:^|_)sq([0-9]{1,5})(?:_|$)", data.form)
    if side and int(side[1]) < resolution:
        raise UserError(
            f"config.data.form={data.form!r} has pictures of {side[1]} pixels, fewer than "
            f"config.model.resolution={resolution}; prepare and name a larger form"
        )
    if side and data.crop != "squash" and data.name != "shapes":
        raise UserError(
            f"config.data.crop={data.crop!r} comes too late for config.data.form={data.form!r}, "
            "whose pictures were squashed when they were prepared; use a form of original pictures"
        )
    if reason := why_refused(data.name, evaluation_data(config)):
        raise UserError(
            f"config.data.name={data.name!r} cannot be evaluated on config.data.eval_name="
            f"{data.eval_name!r}: {reason}"
        )
