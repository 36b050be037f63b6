"""The Inception network of the Fréchet Inception distance (Heusel et al. 2017), in Flax.

This is the TensorFlow graph of 2015-12-05, as ported by pytorch-fid and torch-fidelity. It differs
from the usual InceptionV3: average pools exclude the padding, the last block has a maximum pool,
and there are 1008 classes. Parameters have the names in the weight file of the port.

The two ports prepare images differently, which changes every number: `pytorch_fid_input` and
`torch_fidelity_input`.
"""

from collections.abc import Callable, Mapping
from functools import partial

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


class _ConvNorm(nn.Module):
    """A convolution, its batch normalisation and a ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        x = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            use_bias=False,
            precision=_PRECISION,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def _convs(x: Array, name: str, *sizes: tuple[int, ...]) -> Array:
    """Convolutions in sequence, ``(features, rows, columns[, stride])``, numbered if several.

    Those with a stride have no padding.
    """
    for i, (features, rows, columns, *stride) in enumerate(sizes):
        layer = _ConvNorm(
            features,
            (rows, columns),
            *stride,
            padding="VALID" if stride else "SAME",
            name=f"{name}_{i + 1}" if len(sizes) > 1 else name,
        )
        x = layer(x)
    return x


def _average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    # Without the padding, means at an edge are over two of three rows or columns. The counts are
    # computed here, because XLA would take long to fold a pool of ones.
    counts = [np.where((i == 0) | (i == i[-1]), 2, 3) for i in map(np.arange, x.shape[1:3])]
    share = (9 / np.outer(*counts)).astype(np.float32)[None, :, :, None]
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME") * share


def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _shrink(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return nn.max_pool(x, (3, 3), (2, 2))


def _block_a(x: Array, pooled: int) -> tuple[Array, ...]:
    return (
        _convs(x, "branch1x1", (64, 1, 1)),
        _convs(x, "branch5x5", (48, 1, 1), (64, 5, 5)),
        _convs(x, "branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        _convs(_average_pool(x), "branch_pool", (pooled, 1, 1)),
    )


def _block_b(x: Array) -> tuple[Array, ...]:
    return (
        _convs(x, "branch3x3", (384, 3, 3, 2)),
        _convs(x, "branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3, 2)),
        _shrink(x),
    )


def _block_c(x: Array, width: int) -> tuple[Array, ...]:
    row, column = (width, 1, 7), (width, 7, 1)
    return (
        _convs(x, "branch1x1", (192, 1, 1)),
        _convs(x, "branch7x7", (width, 1, 1), row, (192, 7, 1)),
        _convs(x, "branch7x7dbl", (width, 1, 1), column, row, column, (192, 1, 7)),
        _convs(_average_pool(x), "branch_pool", (192, 1, 1)),
    )


def _block_d(x: Array) -> tuple[Array, ...]:
    return (
        _convs(x, "branch3x3", (192, 1, 1), (320, 3, 3, 2)),
        _convs(x, "branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
        _shrink(x),
    )


def _block_e(x: Array, pool: Callable[[Array], Array]) -> tuple[Array, ...]:
    one = _convs(x, "branch3x3_1", (384, 1, 1))
    double = _convs(x, "branch3x3dbl", (448, 1, 1), (384, 3, 3))
    return (
        _convs(x, "branch1x1", (320, 1, 1)),
        _convs(one, "branch3x3_2a", (384, 1, 3)),
        _convs(one, "branch3x3_2b", (384, 3, 1)),
        _convs(double, "branch3x3dbl_3a", (384, 1, 3)),
        _convs(double, "branch3x3dbl_3b", (384, 3, 1)),
        _convs(pool(x), "branch_pool", (192, 1, 1)),
    )


_BLOCKS = {
    "Mixed_5b": partial(_block_a, pooled=32),
    "Mixed_5c": partial(_block_a, pooled=64),
    "Mixed_5d": partial(_block_a, pooled=64),
    "Mixed_6a": _block_b,
    "Mixed_6b": partial(_block_c, width=128),
    "Mixed_6c": partial(_block_c, width=160),
    "Mixed_6d": partial(_block_c, width=160),
    "Mixed_6e": partial(_block_c, width=192),
    "Mixed_7a": _block_d,
    "Mixed_7b": partial(_block_e, pool=_average_pool),
    "Mixed_7c": partial(_block_e, pool=_max_pool),
}


class _Block(nn.Module):
    """Branches of the same input, whose results are concatenated."""

    branches: Callable[[Array], tuple[Array, ...]]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        return jnp.concatenate(self.branches(x), axis=-1)


class Inception(nn.Module):
    """Pooled features of images, prepared by `pytorch_fid_input` or `torch_fidelity_input`."""

    @nn.compact
    def __call__(self, x: Float[Array, "b 299 299 3"]) -> Float[Array, "b 2048"]:
        """The activations of the last block averaged over positions, float32."""
        x = _ConvNorm(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = _ConvNorm(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _shrink(_ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = _ConvNorm(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = _shrink(_ConvNorm(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
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
    fraction = np.expand_dims(place - low, [i for i in range(4) if i != axis])
    near = jnp.take(x, low, axis=axis)
    far = jnp.take(x, np.minimum(low + 1, side - 1), axis=axis)
    return near + (far - near) * fraction


def entries() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays in the published weight file; kernels are OIHW."""
    found = {"fc.weight": (NUM_CLASSES, NUM_FEATURES), "fc.bias": (NUM_CLASSES,)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_shapes()):
        is_kernel = len(leaf.shape) == 4
        oihw = tuple(leaf.shape[i] for i in (3, 2, 0, 1)) if is_kernel else leaf.shape
        found[_torch_name(path)] = oihw
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
    renamed = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return ".".join([*names[:-1], renamed.get(names[-1], names[-1])])
