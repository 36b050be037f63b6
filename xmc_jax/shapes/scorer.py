"""A small trained reader of shapes: what is in each cell of the grid, and the background.

Convolutions shared by all cells look at the image and give every cell an object or none, with its
shape, colour and size. The names come with the weights, so the scorer, as the analytic parser,
knows nothing of how images are made. `xmc_jax.shapes.train_scorer` trains it; the weights are
shipped.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from xmc_jax import images as pixels
from xmc_jax.errors import UserError
from xmc_jax.shapes.accuracy import ParsedObject, ParsedScene
from xmc_jax.types import PyTree

PACKAGED = Path(__file__).with_name("scorer.npz")
GRID = 3  # Cells along a side.

_SIDE = 36  # Every image is resized to it: 12 pixels a cell.
_BATCH = 50  # Images read at once; the last batch is padded, so that one program serves all.
_FAINT = 0.2  # Contrast, of at most 3.5, that is half of its own evened value: noise stays low.
_INIT = nn.initializers.he_normal()
_METADATA = "metadata"  # Entry of the weight file: JSON.


class Names(NamedTuple):
    """What the scorer tells apart, in the order of its outputs."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    sizes: tuple[str, ...]
    backgrounds: tuple[str, ...]


class Logits(NamedTuple):
    """What the network says of a batch, before any softmax; cells row by row."""

    present: Float[Array, "b cells"]
    shape: Float[Array, "b cells shapes"]
    colour: Float[Array, "b cells colours"]
    size: Float[Array, "b cells sizes"]
    background: Float[Array, "b backgrounds"]


class Labels(NamedTuple):
    """What the network should say: indices of names; those of empty cells mean nothing."""

    present: Bool[Array, "b cells"]
    shape: Int[Array, "b cells"]
    colour: Int[Array, "b cells"]
    size: Int[Array, "b cells"]
    background: Int[Array, " b"]


class ShapesScorer(nn.Module):
    """The network.

    Attributes:
      num_shapes: Shapes it tells apart; so the others.
      num_colours: Of objects.
      num_sizes: Of objects.
      num_backgrounds: Colours of backgrounds.
    """

    num_shapes: int
    num_colours: int
    num_sizes: int
    num_backgrounds: int

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Logits:
        """Reads images in [-1, 1] of any size."""
        b = len(images)
        images = jax.image.resize(images, (b, _SIDE, _SIDE, 3), "bilinear", antialias=True)
        ground = jnp.median(images, axis=(1, 2))
        contrast = jnp.linalg.norm(images - ground[:, None, None], axis=-1, keepdims=True)
        x = _even(contrast)
        for features, stride in ((16, 1), (32, 2), (48, 2), (64, 1)):
            x = nn.relu(nn.Conv(features, (3, 3), (stride, stride), kernel_init=_INIT)(x))
        cell = (x.shape[1] // GRID,) * 2
        x = nn.relu(nn.Conv(96, cell, cell, padding="VALID", kernel_init=_INIT)(x))
        outlines = nn.Dense(1 + self.num_shapes + self.num_sizes)(x.reshape(b, GRID**2, -1))
        present, shape, size = jnp.split(outlines, (1, 1 + self.num_shapes), axis=-1)
        colours = _cell_colours(images, contrast)
        around = jnp.broadcast_to(ground[:, None], colours.shape)
        colour = self._classify(jnp.concatenate([colours, around], axis=-1), self.num_colours)
        background = self._classify(ground, self.num_backgrounds)
        return Logits(present[..., 0], shape, colour, size, background)

    def _classify(self, colours: Float[Array, "*b c"], num_classes: int) -> Float[Array, "*b n"]:
        for _ in range(2):
            colours = nn.relu(nn.Dense(32, kernel_init=_INIT)(colours))
        return nn.Dense(num_classes)(colours)


def _even(contrast: Float[Array, "b h w 1"]) -> Float[Array, "b h w 1"]:
    """Contrasts over the largest nearby: as much of a pale object as of a strong one, 0..1."""
    cell = _SIDE // GRID + 1
    largest = nn.max_pool(contrast, (cell, 1), padding="SAME")
    largest = nn.max_pool(largest, (1, cell), padding="SAME")
    return contrast / (largest + _FAINT)


def _cell_colours(
    images: Float[Array, "b h w 3"], contrast: Float[Array, "b h w 1"]
) -> Float[Array, "b cells 3"]:
    """Mean colour of each cell, where what differs from the background counts most."""

    def sums(x: Float[Array, "b h w c"]) -> Float[Array, "b cells c"]:
        b, h, w, c = x.shape
        x = x.reshape(b, GRID, h // GRID, GRID, w // GRID, c)
        return x.sum(axis=(2, 4)).reshape(b, GRID**2, c)

    weights = contrast**2 + 1e-6
    return sums(weights * images) / sums(weights)


def scorer_loss(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """Cross-entropies in nats: of presence a cell, of attributes an object, of backgrounds."""
    present = jnp.asarray(labels.present, jnp.float32)
    objects = jnp.maximum(present.sum(), 1.0)

    def of_objects(kind: str):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            getattr(logits, kind), getattr(labels, kind)
        )
        return jnp.sum(losses * present) / objects

    background = optax.softmax_cross_entropy_with_integer_labels(
        logits.background, labels.background
    )
    return (
        optax.sigmoid_binary_cross_entropy(logits.present, present).mean()
        + sum(of_objects(kind) for kind in ("shape", "colour", "size"))
        + background.mean()
    )


class Scorer(NamedTuple):
    """A trained network.

    Attributes:
      read: ``images -> scenes``. An object stands at the centre of its cell, and has no shape where
        none has even odds.
      fingerprint: sha256 of the weight file.
      metadata: How the weights came about: ``command``, ``accuracy`` and the like.
    """

    read: Callable[[UInt8[np.ndarray, "n h w 3"]], list[ParsedScene]]
    fingerprint: str
    metadata: Mapping[str, Any]


def create_network(names: Names) -> ShapesScorer:
    """The network that tells these names apart."""
    return ShapesScorer(*map(len, names))


def make_reader(
    params: PyTree, names: Names
) -> Callable[[UInt8[np.ndarray, "n h w 3"]], list[ParsedScene]]:
    """Binds weights: the function that reads images; see `Scorer.read`."""
    network = create_network(names)
    apply = jax.jit(lambda params, x: network.apply(params, pixels.from_uint8(x)))

    def read(images: UInt8[np.ndarray, "n h w 3"]) -> list[ParsedScene]:
        scenes = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            padding = ((0, _BATCH - len(part)), (0, 0), (0, 0), (0, 0))
            logits = jax.tree.map(np.asarray, apply(params, np.pad(part, padding)))
            readings = list(zip(*logits, strict=True))[: len(part)]
            scenes += [_scene(Logits(*reading), names) for reading in readings]
        return scenes

    return read


def _scene(logits: Logits, names: Names) -> ParsedScene:
    """The likeliest reading of one image."""
    objects = []
    for cell in np.flatnonzero(logits.present > 0):
        row, column = divmod(int(cell), GRID)
        shape = logits.shape[cell]
        # The best has even odds: its exponential is at least the sum of the others'.
        sure = np.exp(shape - shape.max()).sum() <= 2
        objects.append(
            ParsedObject(
                names.shapes[np.argmax(shape)] if sure else None,
                names.colours[np.argmax(logits.colour[cell])],
                names.sizes[np.argmax(logits.size[cell])],
                (column + 0.5) / GRID,
                (row + 0.5) / GRID,
            )
        )
    return ParsedScene(names.backgrounds[np.argmax(logits.background)], tuple(objects))


def save_scorer(path: Path, params: PyTree, names: Names, metadata: Mapping[str, Any]) -> None:
    """Writes weights, in half precision, with names and metadata; no pickle."""
    arrays = flax.traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.asarray(array, np.float16) for name, array in arrays.items()}
    about = json.dumps({"names": names._asdict()} | dict(metadata), sort_keys=True)
    with path.open("wb") as file:
        np.savez(file, **arrays, **{_METADATA: np.frombuffer(about.encode(), np.uint8)})


def load_scorer(path: Path = PACKAGED) -> Scorer:
    """Reads a weight file.

    Args:
      path: Written by `save_scorer`; by default the one of this package.

    Raises:
      UserError: the file is missing or does not hold a scorer.
    """
    if not path.is_file():
        raise UserError(f"no weight file {path}; python -m xmc_jax.shapes.train_scorer writes one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(arrays.pop(_METADATA).tobytes())
        names = Names(**{kind: tuple(names) for kind, names in metadata["names"].items()})
        params = _checked(arrays, names)
    except (ValueError, OSError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} does not hold a scorer of shapes: {error}") from error
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    return Scorer(make_reader(params, names), fingerprint, metadata)


def _checked(arrays: Mapping[str, np.ndarray], names: Names) -> PyTree:
    """Weights as the network has them, in single precision."""
    blank = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), jnp.float32)
    wanted = jax.eval_shape(create_network(names).init, jax.random.key(0), blank)
    wanted = flax.traverse_util.flatten_dict(wanted, sep="/")
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {name: array.shape for name, array in wanted.items()}:
        raise ValueError("arrays of other names or shapes")
    return flax.traverse_util.unflatten_dict(
        {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}, sep="/"
    )
