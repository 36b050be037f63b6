"""Scenes of coloured shapes: what an image of the embedded data set contains, and its rendering.

A scene is a background and a few objects, each in a cell of a 3x3 grid; `LAYOUTS` has how many they
are and how large. Everything is sampled from a seed that depends on the layout, the split and the
index only, so an example is the same whether it is generated or read from disk, in any process and
in any order. A scene renders at any resolution. `captions.py` describes scenes.
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "heart", "star")
# All channels stay away from 0 and 255, as in photographs. With values at these ends, a generator
# that ends in tanh saturates, receives no gradient, and generates the same background forever.
COLOURS = {
    "red": (215, 35, 40),
    "orange": (235, 135, 30),
    "yellow": (232, 214, 45),
    "green": (35, 145, 60),
    "cyan": (60, 205, 215),
    "blue": (45, 70, 215),
    "purple": (135, 50, 175),
    "pink": (235, 125, 180),
}
BACKGROUNDS = {"white": (236, 236, 236), "gray": (128, 128, 128), "black": (20, 20, 20)}
# Half the side of an object's bounding box, in the unit of the layout.
SIZES = {"small": 0.28, "large": 0.42}
GRID = 3  # Cells along a side.
SPLITS = {"train": 40_000, "val": 5_000, "test": 5_000, "test_comp": 5_000}
# A tenth of the pairs occurs in test_comp only, where every scene contains at least one of them.
HELD_OUT_PAIRS = frozenset(
    zip(SHAPES[:6], ("purple", "cyan", "red", "blue", "pink", "green"), strict=True)
)

_PAIRS = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
_SEEN_PAIRS = tuple(pair for pair in _PAIRS if pair not in HELD_OUT_PAIRS)


class Layout(NamedTuple):
    """How many objects a scene has, how large they are and where they stand; lengths in cells.

    An object may be larger than its cell, but it lies in the image, its centre in its cell, and it
    does not touch others. So the places of larger objects are nearer to the middle of the image.

    Attributes:
      counts: Smallest and largest number of objects.
      unit: What `SIZES` are measured in.
      spacing: Between the places of neighbouring cells; the place of the middle cell is its centre.
      jitter: Largest distance of an object of each size from its place, along each axis.
      distance: Smallest number of rows or columns, whichever is larger, between two objects.
    """

    counts: tuple[int, int]
    unit: float
    spacing: float
    jitter: Mapping[str, float]
    distance: int

    def radius(self, size: str) -> float:
        """Half the side of an object's bounding box, in units of the image's side."""
        return self.unit * SIZES[size] / GRID


# An object stays 0.04 away from the border of its cell.
_IN_CELLS = Layout((1, 4), 1.0, 1.0, {size: 0.5 - r - 0.04 for size, r in SIZES.items()}, 1)
LAYOUTS = {
    "full": _IN_CELLS,
    "narrative": _IN_CELLS._replace(counts=(2, 5)),
    # At 32 pixels, objects are 10 or 14 pixels wide (6 or 9 in the layouts above).
    "one": Layout((1, 1), 1.6, 0.69, dict.fromkeys(SIZES, 0.09), 1),
    # 8 or 13 pixels. Two objects in neighbouring cells would overlap.
    "two": Layout((1, 2), 1.4, 0.78, dict.fromkeys(SIZES, 0.09), 2),
}


class SceneObject(NamedTuple):
    """An object in a scene."""

    shape: str
    colour: str
    size: str
    cell: int  # 0..8, row by row.
    offset: tuple[
        float, float
    ]  # From the cell's centre to its own, (x, y) in cells; y points down.

    @property
    def centre(self) -> tuple[float, float]:
        """Centre ``(x, y)`` in units of the image's side; y points down."""
        row, column = divmod(self.cell, GRID)
        return (column + 0.5 + self.offset[0]) / GRID, (row + 0.5 + self.offset[1]) / GRID


class Scene(NamedTuple):
    """A background colour and objects; no two share a cell or a shape-colour pair."""

    background: str
    objects: tuple[SceneObject, ...]


def direction(right: float | int, down: float | int) -> str:
    """Name of the main direction of an offset: "left of", "right of", "above" or "below"."""
    if abs(right) > abs(down):
        return "left of" if right < 0 else "right of"
    return "above" if down < 0 else "below"


def random_generator(split: str, index: int, purpose: str) -> np.random.Generator:
    """Random number generator whose seed depends on the arguments only."""
    return np.random.default_rng([zlib.crc32(f"{split}/{purpose}".encode()), index])


def make_scene(split: str, index: int, layout: str = "full") -> Scene:
    """Samples the scene of an example, in one of `LAYOUTS`.

    Raises:
      ValueError: The split does not exist, or the index is negative.
    """
    if split not in SPLITS or index < 0:
        raise ValueError(f"no example {index} of split {split!r}; splits are {', '.join(SPLITS)}")
    rng = random_generator(split, index, "scene" if layout == "full" else layout)
    counts, _, spacing, jitter, distance = LAYOUTS[layout]
    count = int(rng.integers(counts[0], counts[1] + 1))
    pairs = _sample_pairs(rng, count, compositional=split == "test_comp")
    cells = _sample_cells(rng, count, distance)
    objects = []
    for (shape, colour), cell in zip(pairs, cells, strict=True):
        size = tuple(SIZES)[rng.integers(len(SIZES))]
        row, column = divmod(cell, GRID)
        place = [(v - GRID // 2) * (spacing - 1) for v in (column, row)]
        x, y = (float(v) for v in place + rng.uniform(-jitter[size], jitter[size], 2))
        objects.append(SceneObject(shape, colour, size, cell, (x, y)))
    background = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    return Scene(background, tuple(objects))


def _sample_cells(rng: np.random.Generator, count: int, distance: int) -> list[int]:
    """Samples different cells; any two are `distance` rows or columns apart, or more."""
    while True:
        cells = rng.permutation(GRID * GRID)[:count].tolist()
        places = np.array([divmod(cell, GRID) for cell in cells])
        apart = np.abs(places[:, None] - places).max(axis=-1)
        if np.all(apart[np.triu_indices(count, k=1)] >= distance):
            return cells


def _sample_pairs(rng: np.random.Generator, count: int, *, compositional: bool) -> list:
    """Samples distinct shape-colour pairs; with `compositional`, at least one held-out pair."""
    if not compositional:
        return [_SEEN_PAIRS[i] for i in rng.permutation(len(_SEEN_PAIRS))[:count]]
    held_out = sorted(HELD_OUT_PAIRS)
    first = held_out[rng.integers(len(held_out))]
    others = [pair for pair in _PAIRS if pair != first]
    pairs = [first, *(others[i] for i in rng.permutation(len(others))[: count - 1])]
    return [pairs[i] for i in rng.permutation(count)]


def render(scene: Scene, resolution: int, layout: str = "full") -> UInt8[np.ndarray, "h w 3"]:
    """Renders a scene of a layout with antialiasing at a resolution in pixels."""
    image = np.full((resolution, resolution, 3), BACKGROUNDS[scene.background], np.float32)
    for item in scene.objects:
        radius = LAYOUTS[layout].radius(item.size) * resolution
        x, y = (v * resolution for v in item.centre)
        left, top = (max(int(np.floor(v - radius)), 0) for v in (x, y))
        right, bottom = (min(int(np.ceil(v + radius)), resolution) for v in (x, y))
        box = image[top:bottom, left:right]
        alpha = coverage(item.shape, box.shape[:2], (x - left, y - top), radius)[..., None]
        box += alpha * (np.asarray(COLOURS[item.colour], np.float32) - box)
    return np.round(image).astype(np.uint8)


def coverage(
    shape: str, size: tuple[int, int], centre: tuple[float, float], radius: float
) -> Float[np.ndarray, "h w"]:
    """Fraction of each pixel of a box that a shape covers, 0..1, by 4x4 samples a pixel.

    Args:
      shape: One of `SHAPES`.
      size: Height and width of the box in pixels.
      centre: Centre ``(x, y)`` of the shape in pixels, from the top left corner of the box.
      radius: Half the side of the shape's bounding box in pixels.
    """
    n = 4
    ys, xs = ((np.arange(side * n) + 0.5) / n for side in size)
    x, y = (xs[None, :] - centre[0]) / radius, (ys[:, None] - centre[1]) / radius
    inside = silhouette(shape, x, y)
    return inside.reshape(size[0], n, size[1], n).mean((1, 3), dtype=np.float32)


def silhouette(
    shape: str, x: Float[np.ndarray, "1 w"], y: Float[np.ndarray, "h 1"]
) -> Bool[np.ndarray, "h w"]:
    """Whether points lie inside a shape that fills the square [-1, 1] x [-1, 1]; y points down.

    Raises:
      ValueError: The shape does not exist.
    """
    ax, ay = np.abs(x), np.abs(y)
    squared = x * x + y * y
    if shape == "circle":
        return squared <= 0.92
    if shape == "square":
        return (ax <= 0.84) & (ay <= 0.84)
    if shape == "triangle":
        return (y <= 0.85) & (ax <= (y + 0.95) * 0.56)
    if shape == "diamond":
        return ax * 1.25 + ay <= 1.0
    if shape == "cross":
        return (np.minimum(ax, ay) <= 0.3) & (np.maximum(ax, ay) <= 1.0)
    if shape == "ring":
        return (squared <= 1.0) & (squared >= 0.32)
    if shape == "heart":
        lobes = (ax - 0.46) ** 2 + (y + 0.38) ** 2 <= 0.27
        point = (y >= -0.25) & (ax * 0.98 + y * 0.94 <= 0.88) & (ax <= 0.98)
        return lobes | point
    if shape == "star":
        # The star has ten symmetric sectors: fold the plane into one of them.
        angle = np.arctan2(x, -y)
        fold = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        u, v = np.sqrt(squared) * np.cos(fold), np.sqrt(squared) * np.sin(fold)
        tip, notch_u, notch_v = 1.05, 0.46 * np.cos(np.pi / 5), 0.46 * np.sin(np.pi / 5)
        return (notch_u - tip) * v - notch_v * (u - tip) >= 0
    raise ValueError(f"no shape {shape!r}; there are {', '.join(SHAPES)}")
