"""Images as arrays. Only here do 8-bit pixels become floats in [-1, 1] and floats 8-bit pixels."""

import functools
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
    """Arranges images row by row on white, with ``padding`` pixels between and around them."""
    white = functools.partial(np.pad, constant_values=255)
    missing = -len(images) % num_columns
    tiles = white(images, ((0, missing), (0, padding), (0, padding), (0, 0)))
    _, h, w, c = tiles.shape
    rows = tiles.reshape(-1, num_columns, h, w, c).swapaxes(1, 2)
    return white(rows.reshape(-1, num_columns * w, c), ((padding, 0), (padding, 0), (0, 0)))


def enlarge(pixels: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Repeats every pixel ``factor`` times along both axes, to make small images visible."""
    return np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)


def encode_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The bytes of a PNG file of the image."""
    from PIL import Image  # The mathematics must import without Pillow.

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()
