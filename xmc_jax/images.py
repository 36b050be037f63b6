"""Pixels: the only place where bytes become floats in [-1, 1] and floats become bytes."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def from_uint8(pixels: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Maps 0..255 to [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Float[Array, "*b h w 3"]) -> UInt8[Array, "*b h w 3"]:
    """Maps [-1, 1] to 0..255, rounding to nearest; values outside are clipped."""
    return jnp.round((jnp.clip(images.astype(jnp.float32), -1.0, 1.0) + 1.0) * 127.5).astype(
        jnp.uint8
    )


def random_flip(images: Float[Array, "b h w 3"], rng: Array) -> Float[Array, "b h w 3"]:
    """Mirrors each image left to right with probability one half."""
    flip = jax.random.bernoulli(rng, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1, :], images)


def make_grid(
    images: UInt8[np.ndarray, "b h w 3"], *, num_columns: int, padding: int = 2
) -> UInt8[np.ndarray, "grid_h grid_w 3"]:
    """Lays images out row by row on white, with ``padding`` pixels between and around them."""
    images = np.asarray(images)
    count, height, width, channels = images.shape
    num_rows = -(-count // num_columns)
    grid = np.full(
        (
            padding + num_rows * (height + padding),
            padding + num_columns * (width + padding),
            channels,
        ),
        255,
        np.uint8,
    )
    for index, image in enumerate(images):
        top = padding + index // num_columns * (height + padding)
        left = padding + index % num_columns * (width + padding)
        grid[top : top + height, left : left + width] = image
    return grid


def enlarge(pixels: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Repeats every pixel ``factor`` times along both axes, so that small images can be seen."""
    return np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)


def encode_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The image as a PNG file's bytes."""
    from PIL import Image  # Imported here: the maths must import without Pillow.

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()
