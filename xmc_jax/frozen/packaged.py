"""Weight files of the small networks that are trained here: one ``.npz`` with metadata."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from xmc_jax.errors import UserError, reason
from xmc_jax.types import PyTree

_METADATA = "metadata"  # Entry of the file: JSON.


class Packaged(NamedTuple):
    """What a weight file holds."""

    params: PyTree  # In single precision.
    fingerprint: str  # sha256 of the file.
    metadata: Mapping[str, Any]  # How the weights were made, such as the ``command``.


def save(path: Path, params: PyTree, metadata: Mapping[str, Any]) -> None:
    """Writes weights in half precision, and metadata; without pickle and without dates."""
    arrays = flax.traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.asarray(array, np.float16) for name, array in arrays.items()}
    text = json.dumps(dict(metadata), sort_keys=True)
    with path.open("wb") as file:
        np.savez(file, **arrays, **{_METADATA: np.frombuffer(text.encode(), np.uint8)})


def load(
    path: Path, abstract: PyTree, *, kind: str, command: str, same: Mapping[str, Any]
) -> Packaged:
    """Reads a file that `save` wrote.

    Args:
      path: The file.
      abstract: Shapes of the parameters.
      kind: What the file should hold, with its article, for messages.
      command: What writes such a file, for messages.
      same: Metadata that must be equal, because the weights are useless with others.

    Raises:
      UserError: The file does not exist, or does not contain such weights.
    """
    if not path.is_file():
        raise UserError(f"no weight file {path}; {command} writes one")
    try:
        data = path.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(arrays.pop(_METADATA).tobytes())
        for name, value in same.items():
            if metadata[name] != json.loads(json.dumps(value)):
                raise ValueError(f"{name} of another version")
        wanted = flax.traverse_util.flatten_dict(abstract, sep="/")
        if jax.tree.map(np.shape, arrays) != jax.tree.map(np.shape, wanted):
            raise ValueError("arrays of other names or shapes")
    except (ValueError, OSError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} does not hold {kind}: {reason(error)}") from error
    params = flax.traverse_util.unflatten_dict(arrays, sep="/")
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)
    return Packaged(params, hashlib.sha256(data).hexdigest(), metadata)
