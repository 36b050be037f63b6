"""Reads the published weights of the Fréchet distance's Inception, without running their code.

A ``.pth`` file is a pickle, which may name any function to call. Here only the functions that build
tensors are looked up, and tensors become views of the bytes of the file. The sha256 of the file is
checked, and the name and shape of every array.
"""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from xmc_jax.errors import UserError, reason
from xmc_jax.frozen.inception import entries
from xmc_jax.frozen.weights import ArrayUnpickler

FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
SHA256_PREFIX = "6726825d"
_MAX_BYTES = 2**28  # The published file has 95 MB.

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # Of files before PyTorch 1.6, which are not archives.
_COUNTER = "num_batches_tracked"  # Entries that end with this are used only in training.


class InceptionWeights(NamedTuple):
    """The contents of the weight file."""

    state: Mapping[str, Shaped[np.ndarray, "..."]]  # By name in the file, see `inception.entries`.
    fingerprint: str  # sha256 of the file.


def load_inception_weights(path: str, *, sha256_prefix: str = SHA256_PREFIX) -> InceptionWeights:
    """Reads and checks the weight file, whose sha256 has to begin with these digits.

    Raises:
      UserError: The file is missing, is not the published one, or has other contents.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"no weight file {file}; config.eval.inception_weights names {FILE_NAME}")
    if file.stat().st_size > _MAX_BYTES:
        raise UserError(f"{file} is larger than {FILE_NAME} can be")
    data = file.read_bytes()
    fingerprint = hashlib.sha256(data).hexdigest()
    if not fingerprint.startswith(sha256_prefix):
        raise UserError(
            f"{file} is not {FILE_NAME}: its sha256 begins with {fingerprint[:8]}, not "
            f"{sha256_prefix}; download it again"
        )
    try:
        state = read_state(data)
    except Exception as error:  # Damaged pickles raise many types.
        raise UserError(f"{file} cannot be read as weights: {reason(error)}") from error
    _check(state, file)
    return InceptionWeights(state, fingerprint)


def read_state(data: bytes) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of a state that PyTorch saved, in its current format or the one before 1.6.

    Raises:
      pickle.UnpicklingError: It contains something other than tensors.
      ValueError: It is damaged, or was not written by PyTorch.
    """
    stream = io.BytesIO(data)
    if zipfile.is_zipfile(stream):
        return _read_archive(zipfile.ZipFile(stream))
    stream.seek(0)
    if _Unpickler(stream).load() != _MAGIC_NUMBER:
        raise ValueError("not a file of PyTorch")
    _Unpickler(stream).load(), _Unpickler(stream).load()  # Version, and byte order (see `_array`).
    storages: dict[str, list] = {}

    def open_later(kind: np.dtype, key: str, count: int) -> list:
        return storages.setdefault(key, [kind, count])  # Bytes come at the end of the file.

    state = _Unpickler(stream, open_later).load()
    for key in _Unpickler(stream).load():
        kind, count = storages[key]
        size = int.from_bytes(stream.read(8), "little")
        content = stream.read(size * np.dtype(kind).itemsize)
        storages[key].append(_array(content, kind, count))
    return {name: tensor() for name, tensor in state.items()}


def _read_archive(archive: zipfile.ZipFile) -> dict[str, Shaped[np.ndarray, "..."]]:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if sum(info.file_size for info in members.values()) > _MAX_BYTES:
        raise ValueError("its contents are too large")

    def fetch(kind: np.dtype, key: str, count: int) -> list:
        return [kind, count, _array(archive.read(members[f"data/{key}"]), kind, count)]

    state = _Unpickler(io.BytesIO(archive.read(members["data.pkl"])), fetch).load()
    return {name: tensor() for name, tensor in state.items()}


def _array(content: bytes, kind: np.dtype, count: int) -> Shaped[np.ndarray, " n"]:
    array = np.frombuffer(content, np.dtype(kind).newbyteorder("<"))  # That of all known machines.
    if len(array) != count:
        raise ValueError(f"a tensor of {count} numbers has {len(array)}")
    return array


class _Dict(dict):
    """Stands for `collections.OrderedDict`, on which PyTorch sets attributes."""


def _rebuild_tensor(
    storage: list, offset: int, shape: tuple, strides: tuple, *_: Any
) -> Callable[[], Shaped[np.ndarray, "..."]]:
    def tensor() -> Shaped[np.ndarray, "..."]:
        numbers = storage[2]
        steps = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
        if min([offset, *steps]) < 0 or offset + sum(steps) >= len(numbers):
            raise ValueError(f"a tensor of shape {tuple(shape)} does not fit its numbers")
        strides_in_bytes = [step * numbers.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(
            numbers[offset:], shape, strides_in_bytes, writeable=False
        )

    return tensor


class _Unpickler(ArrayUnpickler):
    """Builds tensors, as functions that return their arrays."""

    allowed = {
        ("collections", "OrderedDict"): _Dict,
        ("torch", "FloatStorage"): np.dtype(np.float32),
        ("torch", "LongStorage"): np.dtype(np.int64),
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    }

    def __init__(self, file: io.BytesIO, open_storage: Callable[..., list] | None = None):
        super().__init__(file)
        self._open_storage = open_storage

    def persistent_load(self, pid: tuple) -> list:
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or self._open_storage is None or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"{pid} does not belong in a weight file")
        return self._open_storage(dtype, str(key), int(count))


def _check(state: Mapping[str, Shaped[np.ndarray, "..."]], file: Path) -> None:
    wanted = entries()
    found = {name: x.shape for name, x in state.items() if not name.endswith(_COUNTER)}
    for name in [*wanted, *found]:
        here, there = found.get(name, "absent"), wanted.get(name, "absent")
        if here != there:
            raise UserError(f"{file} is not {FILE_NAME}: {name} is {here} and should be {there}")
    for name, x in state.items():
        if not np.all(np.isfinite(x)):
            raise UserError(f"{file}: {name} holds infinities or NaN")
