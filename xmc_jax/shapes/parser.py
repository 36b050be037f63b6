"""An analytic reader: finds the objects of an image by measuring its pixels.

It explains every pixel as a blend of the background and one palette colour, collects connected
pixels of one colour, and compares each such blob with the silhouettes of all shapes and sizes.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from xmc_jax.shapes.accuracy import ParsedObject, ParsedScene, Reader
from xmc_jax.shapes.scenes import BACKGROUNDS, COLOURS, LAYOUTS, SHAPES, SIZES, coverage

_READING_SIDE = 64  # Larger images are averaged down to this side: silhouettes need no more.
_MIN_COVERAGE = 0.5  # Smallest coverage of a pixel that belongs to an object.
_MIN_DISTANCE = 40.0  # Smallest RGB distance of an object's pixel from the background.
_MAX_BACKGROUND_DISTANCE = 80  # Largest RGB distance of a pixel that votes for a background.
_MIN_AREA = 0.35  # Smallest blob, in areas of the smallest silhouette; smaller blobs are noise.
_MIN_MATCH = 0.6  # Smallest similarity of a blob and its shape.

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_BACKGROUND_TABLE = np.array(list(BACKGROUNDS.values()), np.float32)


class _Templates(NamedTuple):
    """Silhouettes of every shape and size at subpixel offsets, in windows of ``side`` pixels."""

    side: int
    labels: list[tuple[str, str, float, float]]  # Shape, size, offset (x, y) from the middle.
    bank: Float[np.ndarray, "n k"]  # Coverage of each pixel of each window.
    squared_norms: Float[np.ndarray, " n"]  # Of the rows of the bank.


def make_parser(resolution: int, layout: str = "full") -> Reader:
    """Makes the reader of scenes of a layout, in images whose side is `resolution` pixels."""
    shrink = max(1, resolution // _READING_SIDE)
    side = resolution // shrink
    radii = {size: LAYOUTS[layout].radius(size) * side for size in SIZES}
    templates = _rasterise(radii)
    min_area = _MIN_AREA * min(t.sum() for t in templates.bank)

    def parse(image: UInt8[np.ndarray, "h w 3"]) -> ParsedScene:
        pixels = image.astype(np.float32)
        pixels = pixels.reshape(side, shrink, side, shrink, 3).mean(axis=(1, 3))
        background = _nearest_background(pixels)
        coverages, best, foreground = _explain(pixels, background)
        objects = []
        for index, colour in enumerate(COLOURS):
            labels, count = ndimage.label(foreground & (best == index))
            for blob in range(1, count + 1):
                mask = labels == blob
                area = np.sum(coverages[index][mask])
                if area < min_area:
                    continue
                shape, size, x, y = _match(coverages[index], mask, templates)
                if size is None:
                    size = min(radii, key=lambda s: abs(np.sqrt(area) - 1.5 * radii[s]))
                objects.append(ParsedObject(shape, colour, size, x / side, y / side))
        return ParsedScene(background, tuple(objects))

    return lambda images: [parse(image) for image in images]


def _rasterise(radii: dict[str, float]) -> _Templates:
    """Templates for `radii`: half the sides of each size in pixels."""
    middle = int(np.ceil(max(radii.values()))) + 2.5
    side = int(2 * middle)
    offsets = (0.0, 0.25, 0.5, 0.75)
    labels = [
        (shape, size, dx, dy)
        for shape, size, dy, dx in itertools.product(SHAPES, radii, offsets, offsets)
    ]
    windows = [
        coverage(shape, (side, side), (middle + dx, middle + dy), radii[size])
        for shape, size, dx, dy in labels
    ]
    bank = np.reshape(windows, (len(labels), -1))
    return _Templates(side, labels, bank, np.sum(bank * bank, axis=1))


def _nearest_background(pixels: Float[np.ndarray, "h w 3"]) -> str:
    """The background colour that is nearest to most of the pixels that are near to any."""
    distances = np.linalg.norm(pixels[:, :, None] - _BACKGROUND_TABLE, axis=-1)
    is_nearest = distances == distances.min(-1, keepdims=True)
    votes = np.sum(is_nearest, axis=(0, 1), where=distances < _MAX_BACKGROUND_DISTANCE)
    if not votes.any():
        votes = -distances.mean(axis=(0, 1))
    return list(BACKGROUNDS)[int(np.argmax(votes))]


def _explain(
    pixels: Float[np.ndarray, "h w 3"], background: str
) -> tuple[Float[np.ndarray, "n h w"], Int[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Models each pixel as ``background + coverage * (colour - background)``.

    Returns the coverage by each colour (0..1), the index of the colour that explains the pixel
    best, and whether the pixel belongs to an object.
    """
    origin = np.asarray(BACKGROUNDS[background], np.float32)
    difference, direction = pixels - origin, _PALETTE - origin
    coverages = np.einsum("hwc,nc->nhw", difference, direction)
    coverages = np.clip(coverages / np.sum(direction**2, axis=1)[:, None, None], 0, 1)
    residual = difference - coverages[..., None] * direction[:, None, None]
    best = np.argmin(np.linalg.norm(residual, axis=-1), axis=0)
    covered = np.take_along_axis(coverages, best[None], axis=0)[0] >= _MIN_COVERAGE
    return coverages, best, covered & (np.linalg.norm(difference, axis=-1) > _MIN_DISTANCE)


def _match(
    by_colour: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], templates: _Templates
) -> tuple[str | None, str | None, float, float]:
    """Shape and size of the silhouette most similar to a blob, and the blob's centre in pixels.

    `by_colour` is the coverage by the blob's colour, `mask` the blob's pixels. The similarity is
    ``1 - |a - b|^2 / (|a|^2 + |b|^2)``, maximised over shifts by up to one pixel and by subpixels.
    Shape and size are None if it is below the threshold.
    """
    rows, columns = np.nonzero(mask)
    middle_y, middle_x = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    # The antialiased border belongs to the blob; neighbours beyond it do not.
    soft = np.where(ndimage.binary_dilation(mask), by_colour, 0.0)
    soft = np.pad(soft, templates.side // 2 + 1)
    windows = sliding_window_view(soft, (templates.side, templates.side))
    windows = windows[middle_y : middle_y + 3, middle_x : middle_x + 3].reshape(9, -1)
    energy = np.sum(windows * windows, axis=1)[:, None] + templates.squared_norms[None, :]
    similarity = 2 * (windows @ templates.bank.T) / energy
    if similarity.max() < _MIN_MATCH:
        return None, None, float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
    down, right, index = np.unravel_index(np.argmax(similarity), (3, 3, len(templates.labels)))
    shape, size, dx, dy = templates.labels[index]
    return shape, size, float(middle_x + right + dx - 0.5), float(middle_y + down + dy - 0.5)
