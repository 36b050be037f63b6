"""A run's config on disk: how it is written, read back, and compared with a new one."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from xmc_jax import files
from xmc_jax.errors import UserError, reason
from xmc_jax.run.folder import config_path

# Sections that fix the shapes and the meaning of the weights.
FIXED_SECTIONS = ("model", "text")
_FREE_FIELDS = ("model.dtype",)  # Weights are float32, whatever the networks compute in.
# Fields that earlier versions did not have, with the value that reproduces what these did.
ADDED_FIELDS = {
    "accumulation_steps": 1,
    "remat": "none",
    "max_nonfinite_skips": 0,
    "data.eval_name": "",
    "data.cached_captions": 0,
    "data.longest_caption_until": 0.0,
    "text.projection": 0,
    "model.first_layer": "noise",
    "model.sentence_scale": 1.0,
    "loss.instance_noise": 0.0,
    "loss.variety_weight": 0.0,
    "loss.variety_candidates": 8,
    "loss.r1_weight": 0.0,
    "loss.r1_every_steps": 1,
    "augment.translation": 0.0,
    "augment.color": 0.0,
    "augment.cutout": 0.0,
    "optimizer.name": "adam",
    "optimizer.clip_norm": 0.0,
    "optimizer.warmup_until": 0.0,
    "optimizer.decay_from": 1.0,
    "model.bn_group_size": 0,
    "model.contrastive_head": "none",
    "loss.contrastive_group_size": 0,
    "eval.inception_weights": "",
    "eval.clip": "",
    "eval.detector": "",
    "eval.dinov2": "",
    "eval.every_steps": 0,
    "eval.best_metric": "",
}
ADDED_SECTIONS = ("augment",)  # All of whose fields are above.


def write_config(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved config; replaces an older one in a single move.

    Raises:
      UserError: it cannot be written.
    """
    files.write_whole(config_path(workdir), to_json(config).encode())


def to_json(config: ml_collections.ConfigDict) -> str:
    """The text of ``config.json``."""
    return json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n"


def read_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The run's config, locked. Fields of `ADDED_FIELDS` that it lacks have their value there.

    JSON has no tuples: every sequence comes back as a tuple.

    Raises:
      UserError: there is no config, it is not valid JSON, or a field's name has a dot.
    """
    files.check_address(workdir)
    path = config_path(workdir)
    try:
        fields = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"no run in {workdir}: {path.name} is missing; check --workdir, or train there first"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"is not valid JSON: {reason(error)}") from error
    if not isinstance(fields, dict):
        raise _broken(path, "holds no fields")
    try:
        return ml_collections.ConfigDict(_complete(_lists_to_tuples(fields))).lock()
    except ValueError as error:  # A name with a dot.
        raise _broken(path, f"is no config: {reason(error).rstrip('.')}") from error


def check_same_networks(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
    """Refuses to resume a run under a config whose networks differ from those of its weights.

    Other sections may change between restarts: steps, periods, learning rates. A folder without a
    config passes.

    Raises:
      UserError: naming every field of `FIXED_SECTIONS` that differs, but for `_FREE_FIELDS`.
    """
    if not config_path(workdir).exists():
        return
    old, new = (
        flatten({section: fields.get(section, {}) for section in FIXED_SECTIONS})
        for fields in (
            read_config(workdir).to_dict(),
            _complete(_lists_to_tuples(config.to_dict())),
        )
    )
    differing = [
        f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
        for name in sorted(old.keys() | new.keys())
        if name not in old
        or name not in new
        or (old[name] != new[name] and name not in _FREE_FIELDS)
    ]
    if differing:
        raise UserError(
            f"the run in {workdir} has another {', '.join(differing)}; "
            "undo the change or choose another --workdir"
        )


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of nested sections under one name each, ``section.field``, in their order."""
    flat = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _complete(fields: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields of `ADDED_FIELDS` that an older version did not write."""
    fields = {name: dict(x) if isinstance(x, Mapping) else x for name, x in fields.items()}
    for name, value in ADDED_FIELDS.items():
        section, _, field = name.rpartition(".")
        if section in ADDED_SECTIONS:
            fields.setdefault(section, {})
        target = fields.get(section) if section else fields
        if isinstance(target, dict):
            target.setdefault(field, value)
    return fields


def _broken(path: epath.Path, fault: str) -> UserError:
    return UserError(
        f"{path} {fault}; restore it from a copy, or remove it: the next start of training writes "
        "it again"
    )


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _lists_to_tuples(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_lists_to_tuples(x) for x in value)
    return value
