"""The arrays of an exported model, in its safetensors files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from safetensors.numpy import load, save

from xmc_jax.inference.exported import damage_named, read_verified


def read_arrays(
    folder: epath.PathLike, manifest: Mapping[str, Any], name: str
) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file of the folder.

    Raises:
      UserError: the file is missing or is not the one that was exported.
    """
    data = read_verified(folder, manifest, name)
    with damage_named(folder):
        return load(data)


def to_safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The contents of a safetensors file."""
    return save({name: np.ascontiguousarray(x) for name, x in arrays.items()})
