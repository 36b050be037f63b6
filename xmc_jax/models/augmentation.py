"""Random changes of the images that the discriminator sees (DiffAugment, Zhao et al. 2020).

A discriminator learns few images by heart, and then tells every generated image from them. It
cannot if every image changes each time. Real and generated images change alike, and gradients pass
through the changes: the generator therefore learns the images as they are, not the changes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

# How far brightness, saturation and contrast go from 0, 1 and 1 at strength 1, as published.
_COLOR_RANGES = 0.5, 1.0, 0.5


class Changes(NamedTuple):
    """How every image of a batch is changed; None for a change that is off.

    Attributes:
      offset: Number of pixels by which the image moves down and to the right.
      color: What is added to all values, and the factors of saturation and contrast.
      corner: First row and column of the square that is cut out; it may begin outside the image.
    """

    offset: Int32[Array, "b 2"] | None = None
    color: Float[Array, "b 3"] | None = None
    corner: Int32[Array, "b 2"] | None = None


class Augmentation(NamedTuple):
    """The strengths of the changes, 0..1; a change of strength 0 is not computed.

    Attributes:
      translation: Largest distance that an image moves, as a fraction of its side (1/8 in the
        paper), in whole pixels, along both axes.
      color: Fraction of the paper's ranges: brightness ± 0.5, saturation 0..2, contrast 0.5..1.5.
      cutout: Side of a square that is cut out, as a fraction of the image's (1/2 in the paper).
    """

    translation: float = 0.0
    color: float = 0.0
    cutout: float = 0.0

    def draw(self, rng: Array, num_images: int, side: int) -> Changes:
        """Draws the changes of a batch of square images.

        All are uniform. The centre of a square that is cut out may be any point of the image, so
        less than the whole square may be missing.
        """
        offset_rng, color_rng, corner_rng = jax.random.split(rng, 3)
        offset = color = corner = None
        if farthest := round(self.translation * side):
            shape = num_images, 2
            offset = jax.random.randint(offset_rng, shape, -farthest, farthest + 1)
        if self.color:
            change = jax.random.uniform(color_rng, (num_images, 3), minval=-1.0, maxval=1.0)
            unchanged, ranges = jnp.array([[0.0, 1.0, 1.0]]), jnp.array([_COLOR_RANGES])
            color = unchanged + self.color * ranges * change
        if hole := round(self.cutout * side):
            center = jax.random.randint(corner_rng, (num_images, 2), 0, side + 1 - hole % 2)
            corner = center - hole // 2
        return Changes(offset, color, corner)

    def apply(self, images: Float[Array, "b h w 3"], changes: Changes) -> Float[Array, "b h w 3"]:
        """Changes the colours of images in [-1, 1], then moves them, then cuts out squares.

        Values may leave [-1, 1]: clipped ones would have no gradient. What is missing is 0, a
        medium grey.
        """
        if changes.color is not None:
            images = change_color(images, changes.color)
        if changes.offset is not None:
            images = translate(images, changes.offset)
        if changes.corner is not None:
            images = cut_out(images, changes.corner, round(self.cutout * images.shape[1]))
        return images


def change_color(
    images: Float[Array, "b h w 3"], color: Float[Array, "b 3"]
) -> Float[Array, "b h w 3"]:
    """Adds the brightness, and multiplies the distances from grey and from the mean of the image.

    The grey of a pixel is the mean of its channels.
    """
    brightness, saturation, contrast = (x[:, None, None, None] for x in color.T)
    images = images + brightness
    gray = jnp.mean(images, axis=3, keepdims=True)
    images = gray + saturation * (images - gray)
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return mean + contrast * (images - mean)


def translate(
    images: Float[Array, "b h w 3"], offset: Int32[Array, "b 2"]
) -> Float[Array, "b h w 3"]:
    """Moves images down and to the right by whole pixels; what comes in is 0."""
    # Products with shifted identity matrices, which are exact. The gradient of a gather would be a
    # scatter, which is slow on accelerators.
    down, right = (
        jnp.float32(_index(side) - x[:, None, None] == _index(side).mT)
        for x, side in zip(offset.T, images.shape[1:3], strict=True)
    )
    precision = jax.lax.Precision.HIGHEST
    images = jnp.einsum("bij,bjwc->biwc", down, images, precision=precision)
    return jnp.einsum("bij,bhjc->bhic", right, images, precision=precision)


def cut_out(
    images: Float[Array, "b h w 3"], corner: Int32[Array, "b 2"], side: int
) -> Float[Array, "b h w 3"]:
    """Sets a square to 0, as much of it as lies in the image."""

    def inside(first: Int32[Array, " b"], length: int) -> Bool[Array, "b n"]:
        distance = jnp.arange(length)[None] - first[:, None]
        return (distance >= 0) & (distance < side)

    rows, columns = map(inside, corner.T, images.shape[1:3])
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0.0, images)


def _index(length: int) -> Int32[Array, "1 n 1"]:
    return jnp.arange(length)[None, :, None]
