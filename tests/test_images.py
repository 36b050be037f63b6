"""images.py: bytes to floats and back."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from xmc_jax import images


def test_every_byte_survives_the_round_trip():
    pixels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    floats = images.from_uint8(pixels)
    assert floats.min() == -1 and floats.max() == 1
    np.testing.assert_array_equal(images.to_uint8(floats), pixels)


def test_out_of_range_is_clipped_and_halves_round():
    x = jnp.array([-2.0, 2.0, 0.0]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(np.ravel(images.to_uint8(x)), [0, 255, 128])


def test_random_flip_mirrors_about_half():
    x = jnp.arange(6.0).reshape(1, 1, 2, 3).repeat(400, 0)
    flipped = np.asarray(images.random_flip(x, jax.random.key(0)))
    mirrored = np.all(flipped == np.asarray(x)[:, :, ::-1], axis=(1, 2, 3))
    same = np.all(flipped == np.asarray(x), axis=(1, 2, 3))
    assert np.all(mirrored ^ same) and 150 < mirrored.sum() < 250


def test_grid_places_images_row_by_row_on_white():
    tiles = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((3, 2, 2, 3), np.uint8)
    grid = images.make_grid(tiles, num_columns=2, padding=1)
    assert grid.shape == (7, 7, 3)
    assert (grid[1, 1], grid[1, 4], grid[4, 1], grid[4, 4])[0][0] == 0
    np.testing.assert_array_equal(grid[[1, 1, 4, 4], [1, 4, 1, 4], 0], [0, 1, 2, 255])


def test_png_holds_the_pixels(rng):
    pixels = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    enlarged = images.enlarge(pixels, 2)
    assert enlarged.shape == (10, 8, 3)
    decoded = np.asarray(Image.open(io.BytesIO(images.encode_png(enlarged))))
    np.testing.assert_array_equal(decoded[::2, 1::2], pixels)
