"""Small figures for notebooks, drawn with pyplot: shown where the notebook shows figures."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8


def show_images(
    images: UInt8[np.ndarray, "n h w 3"],
    titles: Sequence[str] = (),
    *,
    num_columns: int = 8,
    size: float = 1.6,
) -> None:
    """Pictures row by row, each under its title.

    Args:
      images: What to show.
      titles: One for each picture, or none.
      num_columns: Pictures of a row.
      size: Side of a picture, in inches.
    """
    from matplotlib import pyplot as plt

    num_columns = min(num_columns, len(images))
    num_rows = -(-len(images) // num_columns)
    height = size + (0.45 if titles else 0.05)
    _, axes = plt.subplots(
        num_rows,
        num_columns,
        figsize=(num_columns * size, num_rows * height),
        squeeze=False,
        layout="constrained",
    )
    for index, ax in enumerate(axes.flat):
        ax.axis("off")
        if index < len(images):
            ax.imshow(images[index])
            if titles:
                ax.set_title(_wrap(titles[index], int(size * 14)), fontsize=7)


def show_word_maps(
    image: UInt8[np.ndarray, "h w 3"],
    pieces: Sequence[str],
    maps: Float[np.ndarray, "t h0 w0"],
    *,
    lowest: float | None = None,
    highest: float | None = None,
    num_columns: int = 8,
    size: float = 1.4,
) -> None:
    """A picture, and over it the map of each word: the brighter, the more they share.

    Args:
      image: The picture.
      pieces: The words.
      maps: A map for each, of any scale.
      lowest: What is shown dark; the smallest value if None.
      highest: What is shown bright; the largest value if None.
      num_columns: Pictures of a row.
      size: Side of a picture, in inches.
    """
    from matplotlib import pyplot as plt

    count = len(pieces) + 1
    num_columns = min(num_columns, count)
    num_rows = -(-count // num_columns)
    _, axes = plt.subplots(
        num_rows,
        num_columns,
        figsize=(num_columns * size, num_rows * (size + 0.25)),
        squeeze=False,
        layout="constrained",
    )
    lowest = maps.min() if lowest is None else lowest
    highest = maps.max() if highest is None else highest
    h, w, _ = image.shape
    for index, ax in enumerate(axes.flat):
        ax.axis("off")
        if index < count:
            ax.imshow(image)
        if 0 < index < count:
            ax.imshow(
                maps[index - 1],
                extent=(-0.5, w - 0.5, h - 0.5, -0.5),
                vmin=lowest,
                vmax=highest,
                alpha=0.7,
                interpolation="bilinear",
            )
            ax.set_title(pieces[index - 1], fontsize=8)


def _wrap(text: str, width: int) -> str:
    import textwrap

    lines = textwrap.wrap(text, width)
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")
