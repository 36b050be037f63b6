"""An analytic reader of shapes: what an image shows, by measuring its pixels.

It explains every pixel as a blend of the background and one palette colour, collects connected
pixels of one colour, and compares each such blob with the silhouettes of all shapes and sizes. It
knows nothing of how images were made: palette, silhouettes and sizes come as arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from xmc_jax.shapes.accuracy import ParsedObject, ParsedScene

Rgb = tuple[int, int, int]

_READING_SIDE = 64  # Larger images are averaged down to it: silhouettes need no more.
_MIN_COVERAGE = 0.5  # Share of a pixel that must be object for it to count as one.
_MIN_DISTANCE = 40.0  # RGB distance from the background below which a pixel is background.
_MIN_AREA = 0.35  # Smallest blob, in areas of the smallest silhouette: less is noise.
_MIN_MATCH = 0.6  # Below this similarity a blob is of no known shape.
_SUBPIXELS = (0.0, 0.25, 0.5, 0.75)


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
