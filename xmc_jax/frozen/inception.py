"""The Inception network of the Fréchet Inception distance (Heusel et al. 2017), in Flax.

This is the TensorFlow graph of 2015-12-05, as ported by pytorch-fid and torch-fidelity. It differs
from the usual InceptionV3: average pools exclude the padding, the last block has a maximum pool,
and there are 1008 classes. Parameters have the names in the weight file of the port.

The two ports prepare images differently, which changes every number: `pytorch_fid_input` and
`torch_fidelity_input`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from xmc_jax.types import PyTree

INPUT_SIDE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008

# With the lower default precision of accelerators, features would differ in the second digit.
_PRECISION = jax.lax.Precision.HIGHEST


class _Conv(NamedTuple):
    """A convolution, its batch normalisation and a ReLU. With stride 2 there is no padding."""

    name: str
    features: int
    kernel: tuple[int, int]
    stride: int = 1


class _Fork(NamedTuple):
    """Convolutions of the same input, whose results are concatenated."""

    convs: tuple[_Conv, ...]


def _convs(name: str, *sizes: tuple[int, ...]) -> tuple[_Conv, ...]:
    """Convolutions in sequence, ``(features, rows, columns[, stride])``, numbered if several."""
    names = [f"{name}_{i + 1}" for i in range(len(sizes))] if len(sizes) > 1 else [name]
    return tuple(
        _Conv(name, features, (rows, columns), *stride)
        for name, (features, rows, columns, *stride) in zip(names, sizes, strict=True)
    )


def _block_a(pooled: int) -> tuple:
    return (
        _convs("branch1x1", (64, 1, 1)),
        _convs("branch5x5", (48, 1, 1), (64, 5, 5)),
        _convs("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        ("average", *_convs("branch_pool", (pooled, 1, 1))),
    )


_BLOCK_B = (
    _convs("branch3x3", (384, 3, 3, 2)),
    _convs("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3, 2)),
    ("shrink",),
)


def _block_c(width: int) -> tuple:
    row, column = (width, 1, 7), (width, 7, 1)
    return (
        _convs("branch1x1", (192, 1, 1)),
        _convs("branch7x7", (width, 1, 1), row, (192, 7, 1)),
        _convs("branch7x7dbl", (width, 1, 1), column, row, column, (192, 1, 7)),
        ("average", *_convs("branch_pool", (192, 1, 1))),
    )


_BLOCK_D = (
    _convs("branch3x3", (192, 1, 1), (320, 3, 3, 2)),
    _convs("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
    ("shrink",),
)


def _block_e(pool: str) -> tuple:
    def fork(name: str) -> _Fork:
        return _Fork((_Conv(f"{name}a", 384, (1, 3)), _Conv(f"{name}b", 384, (3, 1))))

    return (
        _convs("branch1x1", (320, 1, 1)),
        (*_convs("branch3x3_1", (384, 1, 1)), fork("branch3x3_2")),
        (*_convs("branch3x3dbl", (448, 1, 1), (384, 3, 3)), fork("branch3x3dbl_3")),
        (pool, *_convs("branch_pool", (192, 1, 1))),
    )


_STEM = (
    (_Conv("Conv2d_1a_3x3", 32, (3, 3), 2), "VALID"),
    (_Conv("Conv2d_2a_3x3", 32, (3, 3)), "VALID"),
    (_Conv("Conv2d_2b_3x3", 64, (3, 3)), "SAME"),
    ("shrink", ""),
    (_Conv("Conv2d_3b_1x1", 80, (1, 1)), "VALID"),
    (_Conv("Conv2d_4a_3x3", 192, (3, 3)), "VALID"),
    ("shrink", ""),
)

_BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _BLOCK_B,
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _BLOCK_D,
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("maximum"),
}


class _ConvNorm(nn.Module):
    conv: _Conv
    padding: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        stride = (self.conv.stride,) * 2
        x = nn.Conv(
            self.conv.features,
            self.conv.kernel,
            stride,
            self.padding,
            use_bias=False,
            precision=_PRECISION,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def _pool(kind: str, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    if kind == "average":
        # Without the padding, means at an edge are over two of three rows or columns. The counts
        # are computed here, because XLA would take long to fold a pool of ones.
        counts = [np.where((i == 0) | (i == i[-1]), 2, 3) for i in map(np.arange, x.shape[1:3])]
        share = (9 / np.outer(*counts)).astype(np.float32)[None, :, :, None]
        return nn.avg_pool(x, (3, 3), (1, 1), "SAME") * share
    if kind == "maximum":
        return nn.max_pool(x, (3, 3), (1, 1), "SAME")
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class _Block(nn.Module):
    branches: tuple

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        results = []
        for layers in self.branches:
            y = x
            for layer in layers:
                if isinstance(layer, str):
                    y = _pool(layer, y)
                elif isinstance(layer, _Fork):
                    y = jnp.concatenate([self._conv(c, y) for c in layer.convs], axis=-1)
                else:
                    y = self._conv(layer, y)
            results.append(y)
        return jnp.concatenate(results, axis=-1)

    def _conv(self, conv: _Conv, x: Array) -> Array:
        padding = "VALID" if conv.stride > 1 else "SAME"
        return _ConvNorm(conv, padding, name=conv.name)(x)


class Inception(nn.Module):
    """Pooled features of images, prepared by `pytorch_fid_input` or `torch_fidelity_input`."""

    @nn.compact
    def __call__(self, x: Float[Array, "b 299 299 3"]) -> Float[Array, "b 2048"]:
        """The activations of the last block averaged over positions, float32."""
        for layer, padding in _STEM:
            is_pool = isinstance(layer, str)
            x = _pool(layer, x) if is_pool else _ConvNorm(layer, padding, name=layer.name)(x)
        for name, branches in _BLOCKS.items():
            x = _Block(branches, name=name)(x)
        return jnp.mean(x, axis=(1, 2))


def pytorch_fid_input(pixels: UInt8[Array, "b h w 3"]) -> Float[Array, "b 299 299 3"]:
    """As pytorch-fid: bilinear between the centres of pixels, not antialiased, in [-1, 1]."""
    x = pixels.astype(jnp.float32) / 255
    shape = (x.shape[0], INPUT_SIDE, INPUT_SIDE, 3)
    return 2 * jax.image.resize(x, shape, "bilinear", antialias=False) - 1


def torch_fidelity_input(pixels: UInt8[Array, "b h w 3"]) -> Float[Array, "b 299 299 3"]:
    """As torch-fidelity and the original graph: the bilinear rule of TensorFlow 1, in [-1, 1).

    Pixel i of the result lies at ``i * side / 299``, which ignores the centres of pixels.
    """
    x = pixels.astype(jnp.float32)
    return (_resize_axis(_resize_axis(x, 2), 1) - 128) / 128


def _resize_axis(x: Float[Array, "b h w 3"], axis: int) -> Float[Array, "b h2 w2 3"]:
    side = x.shape[axis]
    place = np.arange(INPUT_SIDE, dtype=np.float32) * np.float32(side / INPUT_SIDE)
    low = place.astype(np.int32)
    shape = [1] * 4
    shape[axis] = INPUT_SIDE
    fraction = (place - low).reshape(shape)
    near = jnp.take(x, low, axis=axis)
    far = jnp.take(x, np.minimum(low + 1, side - 1), axis=axis)
    return near + (far - near) * fraction


def entries() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays in the published weight file; kernels are OIHW."""
    found = {"fc.weight": (NUM_CLASSES, NUM_FEATURES), "fc.bias": (NUM_CLASSES,)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_shapes()):
        kernel = len(leaf.shape) == 4
        found[_torch_name(path)] = (
            tuple(leaf.shape[i] for i in (3, 2, 0, 1)) if kernel else leaf.shape
        )
    return found


def params_from(state: Mapping[str, Shaped[np.ndarray, "..."]]) -> PyTree:
    """Parameters of `Inception` from the arrays of the published weight file, see `entries`."""

    def take(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        array = np.asarray(state[_torch_name(path)], np.float32)
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array

    return jax.tree_util.tree_map_with_path(take, _shapes())


def _shapes() -> PyTree:
    image = jnp.zeros((1, INPUT_SIDE, INPUT_SIDE, 3))
    return jax.eval_shape(Inception().init, jax.random.key(0), image)


def _torch_name(path: tuple) -> str:
    """``Mixed_5b.branch1x1.bn.running_mean`` for batch_stats/Mixed_5b/branch1x1/bn/mean."""
    names = [key.key for key in path[1:]]
    names[-1] = {"kernel": "weight", "scale": "weight", "bias": "bias"}.get(
        names[-1], f"running_{names[-1]}"
    )
    return ".".join(names)
