"""Small figures for notebooks, made with pyplot."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import pyplot as plt


def show_images(
    images: UInt8[np.ndarray, "n h w 3"],
    titles: Sequence[str] = (),
    *,
    num_columns: int = 8,
    size: float = 1.6,
) -> None:
    """Shows images row by row, each under its title if there are titles.

    An image has a side of `size` inches.
    """
    axes = _make_axes(len(images), num_columns, size, size + (0.45 if titles else 0.05))
    for ax, image in zip(axes, images, strict=False):
        ax.imshow(image)
    for ax, title in zip(axes, titles, strict=False):
        lines = textwrap.wrap(title, int(size * 14), max_lines=2, placeholder="…")
        ax.set_title("\n".join(lines), fontsize=7)


def show_word_maps(
    image: UInt8[np.ndarray, "h w 3"],
    pieces: Sequence[str],
    maps: Float[np.ndarray, "t h0 w0"],
    *,
    num_columns: int = 8,
    size: float = 1.4,
) -> None:
    """Shows an image, and then each word's map over the image; larger values are brighter.

    Arguments as in `explore.WordMaps` and `show_images`. All maps have the same scale: the darkest
    colour is the smallest of their values, and the brightest colour the largest.
    """
    h, w, _ = image.shape
    layer = {"extent": (-0.5, w - 0.5, h - 0.5, -0.5), "alpha": 0.7, "interpolation": "bilinear"}
    axes = _make_axes(len(pieces) + 1, num_columns, size, size + 0.25)
    for ax in axes[: len(pieces) + 1]:
        ax.imshow(image)
    for ax, piece, values in zip(axes[1:], pieces, maps, strict=False):
        ax.imshow(values, vmin=maps.min(), vmax=maps.max(), **layer)
        ax.set_title(piece, fontsize=8)


def _make_axes(count: int, num_columns: int, width: float, height: float) -> Sequence[plt.Axes]:
    """At least `count` axes of this size in inches, in rows, all without frames."""
    num_columns = min(num_columns, count)
    num_rows = -(-count // num_columns)
    size = num_columns * width, num_rows * height
    _, axes = plt.subplots(num_rows, num_columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    return list(axes.flat)
