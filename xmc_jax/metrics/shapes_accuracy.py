"""Does an image of shapes show what its caption says? An analytic reader and exact scores.

The reader explains every pixel as a blend of the background and one palette colour, collects
connected pixels of one colour, and compares each such blob with the silhouettes of all shapes and
sizes. It knows nothing of how images were made: palette, silhouettes and sizes come as arguments.

Scores count only what a caption mentions (`score`); always read them between the ceiling (the
reader on real images) and the floor (captions of other images).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

Form = Mapping[str, Any]
Rgb = tuple[int, int, int]

ATTRIBUTES = (
    "object",
    "colour",
    "shape",
    "size",
    "relation",
    "location",
    "count",
    "background",
    "all_correct",
)

_READING_SIDE = 64  # Larger images are averaged down to it: silhouettes need no more.
_MIN_COVERAGE = 0.5  # Share of a pixel that must be object for it to count as one.
_MIN_DISTANCE = 40.0  # RGB distance from the background below which a pixel is background.
_MIN_AREA = 0.35  # Smallest blob, in areas of the smallest silhouette: less is noise.
_MIN_MATCH = 0.6  # Below this similarity a blob is of no known shape.
_SUBPIXELS = (0.0, 0.25, 0.5, 0.75)


class ParsedObject(NamedTuple):
    """A blob.

    Attributes:
      shape: The best silhouette, or None if none resembles it.
      colour: Palette colour.
      size: Size of the best silhouette.
      x: Centre, in units of the image's side, to the right.
      y: Centre, in units of the image's side, downwards.
    """

    shape: str | None
    colour: str
    size: str
    x: float
    y: float


class ParsedScene(NamedTuple):
    """What the reader sees in an image."""

    background: str
    objects: tuple[ParsedObject, ...]


class _Template(NamedTuple):
    """A silhouette, rasterised."""

    shape: str
    size: str
    offset: tuple[float, float]  # Of the silhouette's centre from the middle of the window.


def make_parser(
    *,
    resolution: int,
    palette: Mapping[str, Rgb],
    backgrounds: Mapping[str, Rgb],
    shapes: Sequence[str],
    sizes: Mapping[str, float],
    silhouette: Callable[[str, Float[np.ndarray, "1 w"], Float[np.ndarray, "h 1"]], np.ndarray],
) -> Callable[[UInt8[np.ndarray, "h w 3"]], ParsedScene]:
    """Builds the reader of images of a given size.

    Args:
      resolution: Side of the images.
      palette: Colours of objects.
      backgrounds: Colours of backgrounds.
      shapes: Names that `silhouette` knows.
      sizes: Half the side of an object of each size, in units of the image's side.
      silhouette: ``(shape, x, y)``: which points of the square [-1, 1] x [-1, 1] belong to it.
    """
    shrink = max(1, resolution // _READING_SIDE)
    side = resolution // shrink
    radii = {name: radius * side for name, radius in sizes.items()}
    half = int(np.ceil(max(radii.values()))) + 2
    templates, bank = _rasterise(shapes, radii, silhouette, half)
    squared_norms = np.sum(bank * bank, axis=1)
    min_area = _MIN_AREA * min(t.sum() for t in bank)
    names, colours = list(palette), np.array(list(palette.values()), np.float32)

    def parse(image: UInt8[np.ndarray, "h w 3"]) -> ParsedScene:
        """Reads one image."""
        pixels = image.astype(np.float32)
        pixels = pixels.reshape(side, shrink, side, shrink, 3).mean(axis=(1, 3))
        background = _nearest_background(pixels, backgrounds)
        coverage, best, foreground = _explain(pixels, backgrounds[background], colours)
        objects = []
        for index, colour in enumerate(names):
            labels, count = ndimage.label(foreground & (best == index))
            for blob in range(1, count + 1):
                mask = labels == blob
                if np.sum(coverage[index][mask]) < min_area:
                    continue
                template, x, y = _match(coverage[index], mask, half, templates, bank, squared_norms)
                shape, size = (template.shape, template.size) if template else (None, "")
                if not size:
                    area = np.sum(coverage[index][mask])
                    size = min(radii, key=lambda s: abs(np.sqrt(area) - 1.5 * radii[s]))
                objects.append(ParsedObject(shape, colour, size, x / side, y / side))
        return ParsedScene(background, tuple(objects))

    return parse


def _rasterise(
    shapes: Sequence[str], radii: Mapping[str, float], silhouette: Callable, half: int
) -> tuple[list[_Template], Float[np.ndarray, "n k"]]:
    """Every shape and size at subpixel offsets, in a window of ``2 * half + 1`` pixels."""
    samples = 4
    grid = (np.arange((2 * half + 1) * samples) + 0.5) / samples - half - 0.5
    templates, bank = [], []
    for shape in shapes:
        for size, radius in radii.items():
            for dy in _SUBPIXELS:
                for dx in _SUBPIXELS:
                    inside = silhouette(
                        shape, (grid[None, :] - dx) / radius, (grid[:, None] - dy) / radius
                    )
                    box = inside.reshape(2 * half + 1, samples, 2 * half + 1, samples)
                    templates.append(_Template(shape, size, (dx, dy)))
                    bank.append(box.mean(axis=(1, 3)).ravel())
    return templates, np.array(bank, np.float32)


def _nearest_background(pixels: Float[np.ndarray, "h w 3"], backgrounds: Mapping[str, Rgb]) -> str:
    """The background colour that most pixels are nearest to, out of those near to any."""
    table = np.array(list(backgrounds.values()), np.float32)
    distances = np.linalg.norm(pixels[:, :, None] - table, axis=-1)
    votes = np.sum(distances == distances.min(-1, keepdims=True), axis=(0, 1), where=distances < 80)
    if not votes.any():
        votes = -distances.mean(axis=(0, 1))
    return list(backgrounds)[int(np.argmax(votes))]


def _explain(
    pixels: Float[np.ndarray, "h w 3"], background: Rgb, colours: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n h w"], Int[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Each pixel as ``background + coverage * (colour - background)``.

    Returns:
      The coverage by each colour (0..1), the colour that explains the pixel best, and whether the
      pixel belongs to an object.
    """
    difference = pixels - np.asarray(background, np.float32)
    direction = colours - np.asarray(background, np.float32)
    coverage = np.einsum("hwc,nc->nhw", difference, direction)
    coverage = np.clip(coverage / np.sum(direction**2, axis=1)[:, None, None], 0, 1)
    residual = difference - coverage[..., None] * direction[:, None, None]
    best = np.argmin(np.linalg.norm(residual, axis=-1), axis=0)
    covered = np.take_along_axis(coverage, best[None], axis=0)[0] >= _MIN_COVERAGE
    return coverage, best, covered & (np.linalg.norm(difference, axis=-1) > _MIN_DISTANCE)


def _match(
    coverage: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
    half: int,
    templates: list[_Template],
    bank: Float[np.ndarray, "n k"],
    squared_norms: Float[np.ndarray, " n"],
) -> tuple[_Template | None, float, float]:
    """The silhouette most like a blob, and the blob's centre in pixels.

    The similarity is ``1 - |a - b|^2 / (|a|^2 + |b|^2)``, largest over whole and part pixels.
    """
    rows, columns = np.nonzero(mask)
    middle_y, middle_x = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    # The soft rim belongs to the blob; neighbours beyond it do not.
    soft = np.pad(np.where(ndimage.binary_dilation(mask), coverage, 0.0), half + 1)
    width = 2 * half + 1
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    windows = np.array(
        [
            soft[middle_y + 1 + dy :, middle_x + 1 + dx :][:width, :width].ravel()
            for dy, dx in shifts
        ],
        np.float32,
    )
    energy = np.sum(windows * windows, axis=1)[:, None] + squared_norms[None, :]
    similarity = 2 * (windows @ bank.T) / energy
    shift, index = np.unravel_index(np.argmax(similarity), similarity.shape)
    if similarity[shift, index] < _MIN_MATCH:
        return None, float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
    template, (dy, dx) = templates[index], shifts[shift]
    x = middle_x + dx + template.offset[0] + 0.5
    return template, float(x), float(middle_y + dy + template.offset[1] + 0.5)


def score(scene: ParsedScene, form: Form) -> dict[str, tuple[int, int]]:
    """How much of a caption's claim an image fulfils: ``{attribute: (hits, claims)}``.

    An attribute that the caption does not mention is absent.

    * ``object``: mentions for which an object of that shape, colour (and size, if said) is there.
    * ``colour``, ``shape``: mentions whose colour (shape) is there, each object serving once.
    * ``size``: mentions with a size for which the very object is there, in that size.
    * ``relation``: the two objects are there and stand so, mainly along the axis named.
    * ``location``: the object is there, in that ninth of the image.
    * ``count``: exactly so many objects are there.
    * ``background``: the background has that colour.
    * ``all_correct``: all of the above that the caption mentions.
    """
    mentions = form["objects"]
    counts = {"object": (sum(bool(_find(scene, m)) for m in mentions), len(mentions))}
    for attribute in ("colour", "shape"):
        there = [getattr(o, attribute) for o in scene.objects]
        wanted = [m[attribute] for m in mentions]
        hits = sum(min(wanted.count(name), there.count(name)) for name in set(wanted))
        counts[attribute] = (hits, len(wanted))
    sized = [m for m in mentions if "size" in m]
    counts["size"] = (sum(bool(_find(scene, m)) for m in sized), len(sized))
    if "relation" in form:
        counts["relation"] = (int(_relation_holds(scene, form)), 1)
    if "location" in form:
        cells = {_location(o) for o in _find(scene, _without_size(mentions[0]))}
        counts["location"] = (int(form["location"] in cells), 1)
    if "count" in form:
        counts["count"] = (int(len(scene.objects) == form["count"]), 1)
    if "background" in form:
        counts["background"] = (int(scene.background == form["background"]), 1)
    counts = {name: pair for name, pair in counts.items() if pair[1]}
    counts["all_correct"] = (int(all(hits == claims for hits, claims in counts.values())), 1)
    return counts


def shapes_accuracy(
    scenes: Sequence[ParsedScene], forms: Sequence[Form]
) -> dict[str, tuple[float, int]]:
    """Accuracy of each attribute over a set: ``{attribute: (hits / claims, claims)}``.

    Attributes that no caption mentions are absent.

    Raises:
      ValueError: there are not as many scenes as forms.
    """
    totals: dict[str, list[int]] = {}
    for scene, form in zip(scenes, forms, strict=True):
        for name, (hits, claims) in score(scene, form).items():
            total = totals.setdefault(name, [0, 0])
            total[0] += hits
            total[1] += claims
    return {
        name: (totals[name][0] / totals[name][1], totals[name][1])
        for name in ATTRIBUTES
        if name in totals
    }


def shuffle_captions(count: int, seed: int) -> Int[np.ndarray, " n"]:
    """For each image another image's caption: a seeded permutation without fixed points.

    Raises:
      ValueError: there are fewer than two images.
    """
    if count < 2:
        raise ValueError("one image has no other image's caption")
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def _find(scene: ParsedScene, mention: Form) -> list[ParsedObject]:
    """Objects of a mention's shape and colour, and size if it has one."""
    return [o for o in scene.objects if all(getattr(o, k) == v for k, v in mention.items())]


def _without_size(mention: Form) -> Form:
    return {k: v for k, v in mention.items() if k != "size"}


def _relation_holds(scene: ParsedScene, form: Form) -> bool:
    ones, others = (_find(scene, _without_size(m)) for m in form["objects"])
    return any(_relation(a, b) == form["relation"] for a in ones for b in others)


def _relation(one: ParsedObject, other: ParsedObject) -> str:
    right, down = one.x - other.x, one.y - other.y
    if abs(right) > abs(down):
        return "left of" if right < 0 else "right of"
    return "above" if down < 0 else "below"


def _location(item: ParsedObject) -> str:
    row, column = (min(int(3 * v), 2) for v in (item.y, item.x))
    names = (("top left", "top", "top right"), ("left", "center", "right"))
    names += (("bottom left", "bottom", "bottom right"),)
    return names[row][column]
