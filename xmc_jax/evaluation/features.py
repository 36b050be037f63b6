"""Features of image sets under a frozen network; those of real images are cached."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Shaped, UInt8

from xmc_jax import files
from xmc_jax.errors import UserError
from xmc_jax.evaluation.image_sets import ImageSet, fingerprint, make_progress
from xmc_jax.evaluation.inputs import EvalInputs
from xmc_jax.evaluation.resume import ResumableRows, from_npy, to_npy
from xmc_jax.images import from_uint8
from xmc_jax.parallel import processes, sharding
from xmc_jax.types import PyTree

T = TypeVar("T")


class Network(NamedTuple):
    """A frozen network that computes features of images.

    Attributes:
      name: Names the network and how images are fed to it. Networks that differ in any way have
        different names or different fingerprints.
      apply: ``(params, pixels 0..255) -> features``, pure; one row for each image.
      params: The weights, on the host.
      fingerprint: sha256 of the weights.
    """

    name: str
    apply: Callable[[PyTree, UInt8[Array, "b h w 3"]], Float[Array, "b ..."]]
    params: PyTree
    fingerprint: str


class Features:
    """Features of image sets under one network, which is compiled once for the devices."""

    def __init__(self, network: Network, mesh: Mesh):
        self._network = network
        rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        self._rows = rows
        self._params = sharding.put(network.params, whole)
        self._apply = jax.jit(network.apply, in_shardings=(whole, rows), out_shardings=rows)

    def __call__(
        self, images: ImageSet, scratch: epath.Path, *, keep: bool
    ) -> Float32[np.ndarray, "own ..."]:
        """The features of this process's images, one row each; all processes must call it.

        Args:
          images: The set.
          scratch: See `EvalInputs`.
          keep: Whether to keep the features in the cache folder for later evaluations, as for real
            images. The content of the images, the network and its weights find them again.
        """
        network = self._network
        key = fingerprint(images.fingerprint, images.shards, network.name, network.fingerprint)
        path = files.cache_dir() / "features" / f"{key}_{jax.process_index()}.npy"
        kept = _load(path) if keep else None
        if processes.gather(np.bool_([kept is not None])).all():
            return kept
        features = np.concatenate(list(self._compute(images, scratch, key)))
        if keep:
            try:
                files.write_whole(path, to_npy(features), then="the next evaluation keeps them")
            except UserError as error:  # The next evaluation computes them again.
                processes.say(f"notice: features are not kept: {error}")
        return features

    def _compute(
        self, images: ImageSet, scratch: epath.Path, key: str
    ) -> Iterator[Float32[np.ndarray, "b ..."]]:
        rows = ResumableRows(scratch, f"features_{key[:16]}")
        done, size, count = rows.num_done(), images.shards.batch_size, len(images)
        name = f"{self._network.name} of {images.name} images"
        progress = make_progress(count, name=name, unit="images")
        for index, pixels in enumerate(images.batches()):
            if index < done:
                yield rows.read(index)
                continue
            features = self._apply_to_own(pixels, size // images.shards.process_count)
            rows.write(index, features)
            progress.tell(min((index + 1) * size, count), num_before=min(done * size, count))
            yield features

    def _apply_to_own(self, pixels: UInt8[np.ndarray, "b h w 3"], num_rows: int):
        """Sends the rows of this process to its devices, and takes their features back."""
        padded = np.zeros((num_rows, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        sent = jax.make_array_from_process_local_data(self._rows, padded)
        received = self._apply(self._params, sent)
        shards = sorted(received.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])[: len(pixels)]


class InputFeatures:
    """The features of the image sets of one evaluation; each set's are computed once.

    Those of real images are kept for later evaluations.
    """

    def __init__(self, features: Features, inputs: EvalInputs):
        self.inputs = inputs
        self._features = features
        self._computed: dict[str, np.ndarray] = {}

    def own(self, images: ImageSet) -> Float32[np.ndarray, "own ..."]:
        """One row for each image of this process; all processes must call it."""
        if images.name not in self._computed:
            keep = images is not self.inputs.generated
            self._computed[images.name] = self._features(images, self.inputs.scratch, keep=keep)
        return self._computed[images.name]

    def whole(self, images: ImageSet) -> Float32[np.ndarray, "n ..."]:
        """One row for each image, in every process; all processes must call it."""
        return images.gather(self.own(images))

    def compare(
        self, function: Callable[[ImageSet], T], min_images: int = 2
    ) -> tuple[T | None, T | None]:
        """A function of the generated images and of the other real ones; None if these are few."""
        sets = self.inputs.generated, self.inputs.other_real
        value, floor = (function(x) if len(x) >= min_images else None for x in sets)
        return value, floor


def on_pixels(apply: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Turns a function of images in [-1, 1] into one of pixels, such as `Network.apply`."""
    return lambda params, pixels: apply(params, from_uint8(pixels))


def _load(path: epath.Path) -> Shaped[np.ndarray, "n ..."] | None:
    try:
        return from_npy(path.read_bytes())
    except (OSError, ValueError, EOFError):  # Missing or damaged: the features are recomputed.
        return None
