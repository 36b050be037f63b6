"""A small trained reader: the object in each cell of the grid, and the background.

A convolutional network shared by all cells says whether a cell contains an object, and its shape,
colour and size. Trained weights are shipped; `python -m xmc_jax.shapes.train_scorer` trains them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from xmc_jax.frozen import packaged
from xmc_jax.images import from_uint8
from xmc_jax.shapes.accuracy import ParsedObject, ParsedScene, Reader
from xmc_jax.shapes.scenes import BACKGROUNDS, COLOURS, GRID, SHAPES, SIZES
from xmc_jax.types import PyTree

# Weight files by layout. Layouts whose objects have the same sizes and places share a file.
_FOLDER = Path(__file__).parent
PACKAGED = {
    "full": _FOLDER / "scorer.npz",
    "narrative": _FOLDER / "scorer.npz",
    "one": _FOLDER / "scorer_one.npz",
    "two": _FOLDER / "scorer_two.npz",
}
# What the network tells apart, in the order of its outputs. Weight files carry these names.
NAMES = {
    "shapes": SHAPES,
    "colours": tuple(COLOURS),
    "sizes": tuple(SIZES),
    "backgrounds": tuple(BACKGROUNDS),
}

_SIDE = 36  # Every image is resized to this side: 12 pixels a cell.
_BATCH = 50  # Images read at once; the last batch is padded, so that one program serves all.
_HALF_CONTRAST = 0.2  # Local contrast (at most 3.5) that evens to one half; keeps noise low.
_INIT = nn.initializers.he_normal()


class Logits(NamedTuple):
    """Outputs of the network for a batch, before the softmax; cells row by row."""

    present: Float[Array, "b cells"]
    shape: Float[Array, "b cells shapes"]
    colour: Float[Array, "b cells colours"]
    size: Float[Array, "b cells sizes"]
    background: Float[Array, "b backgrounds"]


class Labels(NamedTuple):
    """Targets of the network: indices of names; those of empty cells are arbitrary."""

    present: Bool[Array, "b cells"]
    shape: Int[Array, "b cells"]
    colour: Int[Array, "b cells"]
    size: Int[Array, "b cells"]
    background: Int[Array, " b"]


class ShapesScorer(nn.Module):
    """The network."""

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
        outlines = nn.Dense(1 + len(SHAPES) + len(SIZES))(x.reshape(b, GRID**2, -1))
        present, shape, size = jnp.split(outlines, (1, 1 + len(SHAPES)), axis=-1)
        colours = _cell_colours(images, contrast)
        around = jnp.broadcast_to(ground[:, None], colours.shape)
        colour = self._classify(jnp.concatenate([colours, around], axis=-1), len(COLOURS))
        background = self._classify(ground, len(BACKGROUNDS))
        return Logits(present[..., 0], shape, colour, size, background)

    def _classify(self, colours: Float[Array, "*b c"], num_classes: int) -> Float[Array, "*b n"]:
        for _ in range(2):
            colours = nn.relu(nn.Dense(32, kernel_init=_INIT)(colours))
        return nn.Dense(num_classes)(colours)


def _even(contrast: Float[Array, "b h w 1"]) -> Float[Array, "b h w 1"]:
    """Contrasts divided by the largest one nearby, 0..1: makes pale objects like strong ones."""
    cell = _SIDE // GRID + 1
    largest = nn.max_pool(contrast, (cell, 1), padding="SAME")
    largest = nn.max_pool(largest, (1, cell), padding="SAME")
    return contrast / (largest + _HALF_CONTRAST)


def _cell_colours(
    images: Float[Array, "b h w 3"], contrast: Float[Array, "b h w 1"]
) -> Float[Array, "b cells 3"]:
    """Mean colour of each cell, weighted by the squared contrast with the background."""

    def sums(x: Float[Array, "b h w c"]) -> Float[Array, "b cells c"]:
        b, h, w, c = x.shape
        x = x.reshape(b, GRID, h // GRID, GRID, w // GRID, c)
        return x.sum(axis=(2, 4)).reshape(b, GRID**2, c)

    weights = contrast**2 + 1e-6
    return sums(weights * images) / sums(weights)


def scorer_loss(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """Sum of cross-entropies in nats.

    Means over cells (presence), objects (shape, colour, size) and images (background).
    """
    present = jnp.asarray(labels.present, jnp.float32)
    objects = jnp.maximum(present.sum(), 1.0)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = optax.sigmoid_binary_cross_entropy(logits.present, present).mean()
    loss += sum(
        jnp.sum(cross_entropy(getattr(logits, kind), getattr(labels, kind)) * present) / objects
        for kind in ("shape", "colour", "size")
    )
    return loss + cross_entropy(logits.background, labels.background).mean()


class Scorer(NamedTuple):
    """The network with its weights."""

    read: Reader
    fingerprint: str  # sha256 of the weight file.
    metadata: Mapping[str, Any]  # How the weights were made, such as the ``command``.


def make_reader(params: PyTree) -> Reader:
    """Makes the function that reads images with these weights.

    An object stands at the centre of its cell. Its shape is None if no shape has a probability of
    at least one half.
    """
    apply = jax.jit(lambda params, x: ShapesScorer().apply(params, from_uint8(x)))

    def read(images: UInt8[np.ndarray, "n h w 3"]) -> list[ParsedScene]:
        scenes = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            padding = ((0, _BATCH - len(part)), (0, 0), (0, 0), (0, 0))
            logits = jax.device_get(apply(params, np.pad(part, padding)))
            scenes += [_scene(Logits(*(x[i] for x in logits))) for i in range(len(part))]
        return scenes

    return read


def _scene(logits: Logits) -> ParsedScene:
    """The most probable scene of one image."""
    objects = []
    for cell in np.flatnonzero(logits.present > 0):
        row, column = divmod(int(cell), GRID)
        shape = logits.shape[cell]
        # The best has probability 1/2 or more if its exponential is at least the others' sum.
        is_sure = np.exp(shape - shape.max()).sum() <= 2
        shape = NAMES["shapes"][np.argmax(shape)] if is_sure else None
        colour = NAMES["colours"][np.argmax(logits.colour[cell])]
        size = NAMES["sizes"][np.argmax(logits.size[cell])]
        x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
        objects.append(ParsedObject(shape, colour, size, x, y))
    return ParsedScene(NAMES["backgrounds"][np.argmax(logits.background)], tuple(objects))


def save_scorer(path: Path, params: PyTree, metadata: Mapping[str, Any]) -> None:
    """Writes weights, the names and metadata; see `packaged.save`."""
    packaged.save(path, params, {"names": NAMES} | dict(metadata))


def load_scorer(path: Path) -> Scorer:
    """Reads a weight file that `save_scorer` wrote, such as one of `PACKAGED`.

    Raises:
      UserError: The file does not exist, or does not contain a scorer of these shapes.
    """
    blank = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), jnp.float32)
    loaded = packaged.load(
        path,
        jax.eval_shape(ShapesScorer().init, jax.random.key(0), blank),
        kind="a scorer of shapes",
        command="python -m xmc_jax.shapes.train_scorer",
        same={"names": NAMES},
    )
    return Scorer(make_reader(loaded.params), loaded.fingerprint, loaded.metadata)
