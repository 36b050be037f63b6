"""A network's features of sets of pictures: on all devices, resumable, real pictures' ones kept."""

import io
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Shaped, UInt8

from xmc_jax.console import Progress
from xmc_jax.evaluation.image_sets import Pictures, fingerprint
from xmc_jax.evaluation.resume import ResumableRows
from xmc_jax.parallel import processes, sharding
from xmc_jax.types import PyTree


class Network(NamedTuple):
    """A frozen network that judges pictures.

    Attributes:
      name: Its name and how pictures are fed to it; two that differ in anything differ here, or
        in `fingerprint`.
      apply: ``(params, pixels 0..255) -> features``, pure; a row an image.
      params: Its weights, on the host.
      fingerprint: sha256 of the weight file.
    """

    name: str
    apply: Callable[[PyTree, UInt8[Array, "b h w 3"]], Float[Array, "b ..."]]
    params: PyTree
    fingerprint: str


class Features:
    """Features of sets of pictures under one network; compiles it once.

    Args:
      network: The network.
      mesh: All devices; each takes its part of every batch.
    """

    def __init__(self, network: Network, mesh: Mesh):
        self.network = network
        rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        self._rows = rows
        self._params = sharding.put(network.params, whole)
        self._apply = jax.jit(network.apply, in_shardings=(whole, rows), out_shardings=rows)

    def __call__(
        self, pictures: Pictures, scratch: epath.Path, *, keep: bool
    ) -> Float32[np.ndarray, "own ..."]:
        """The features of this process's share, a row an image; all processes must call it.

        Args:
          pictures: Of any number.
          scratch: See `Material`: the work done so far waits there, in case of a kill.
          keep: Whether the features stay for other evaluations: those of real pictures should.
            They are found again by the content of the pictures, the network and its weights.
        """
        key = fingerprint(
            pictures.fingerprint, pictures.shares, self.network.name, self.network.fingerprint
        )
        path = _kept_path(key)
        kept = _load(path) if keep else None
        if processes.gather(np.bool_([kept is not None])).all():
            return kept
        features = np.concatenate(list(self._compute(pictures, scratch, key)))
        if keep:
            _store(path, features)
        return features

    def _compute(
        self, pictures: Pictures, scratch: epath.Path, key: str
    ) -> Iterator[Float32[np.ndarray, "b ..."]]:
        spill = ResumableRows(scratch, f"features_{key[:16]}")
        done, size, count = spill.num_done(), pictures.shares.batch_size, len(pictures)
        before = min(done * size, count)
        progress = Progress(
            count,
            name=f"{self.network.name} of {pictures.name} pictures",
            unit="images",
            silent=not processes.is_first(),
        )
        for index, pixels in enumerate(pictures.batches()):
            if index < done:
                yield spill.read(index)
                continue
            features = self._apply_to_own(pixels, size // pictures.shares.process_count)
            spill.write(index, features)
            progress.tell(min((index + 1) * size, count), num_before=before)
            yield features

    def _apply_to_own(self, pixels: UInt8[np.ndarray, "b h w 3"], rows: int):
        """A batch through the devices: every process sends its rows and takes theirs back."""
        padded = np.zeros((rows, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        sent = jax.make_array_from_process_local_data(self._rows, padded)
        received = self._apply(self._params, sent)
        shards = sorted(received.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])[: len(pixels)]


def kept_dir() -> epath.Path:
    """Where features of real pictures stay: ``$XDG_CACHE_HOME/xmc_jax/features``."""
    return (
        epath.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "xmc_jax/features"
    )


def _kept_path(key: str) -> epath.Path:
    return kept_dir() / f"{key}_{jax.process_index()}.npy"


def _load(path: epath.Path) -> Shaped[np.ndarray, "n ..."] | None:
    try:
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):  # Absent, or damaged: computed anew.
        return None


def _store(path: epath.Path, features: Shaped[np.ndarray, "n ..."]) -> None:
    """In one move; a place that takes no files costs time, not the numbers."""
    data = io.BytesIO()
    np.save(data, features, allow_pickle=False)
    temporary = path.parent / f"{path.name}.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data.getvalue())
        temporary.replace(path)
    except OSError as error:
        processes.say(f"notice: features are not kept in {path.parent}: {error.strerror or error}")
