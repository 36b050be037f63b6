"""preprocess.py: odd files and square crops."""

import io

import numpy as np
import pytest
from PIL import Image

from xmc_jax.data import preprocess
from xmc_jax.data.preprocess import CROPS, decode, load
from xmc_jax.errors import UserError


def encode(mode, fmt, size=(6, 4), **options):
    image = Image.new("RGB", size, (200, 100, 50)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "mode,fmt",
    [
        ("RGB", "PNG"),
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
    ],
)
def test_every_kind_becomes_rgb(mode, fmt):
    image = decode(encode(mode, fmt), "x")
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    if mode != "L":
        np.testing.assert_allclose(image.mean((0, 1)), (200, 100, 50), atol=6)


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_broken_files_are_named(cut):
    with pytest.raises(UserError, match="image val-000003 cannot be decoded"):
        decode(encode("RGB", "JPEG", (64, 64))[:cut], "val-000003")
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(b"<html>not found</html>", "x")


def resize(pixels, side, **options):
    return np.asarray(preprocess.resize(Image.fromarray(pixels), side, **options))


def ramp(height, width):
    x = np.linspace(0, 255, width).astype(np.uint8)
    return np.broadcast_to(x[None, :, None], (height, width, 3)).copy()


def test_the_same_size_is_untouched(rng):
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    assert preprocess.resize(image, 8, crop="squash", antialias=True) is image


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("mode,side", [("RGB", 16), ("L", 16), ("RGB", 48)])
def test_loading_is_decoding_and_resizing(rng, mode, side, crop):
    pixels = rng.integers(0, 256, (48, 48 if side == 48 else 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG")
    for antialias in (True, False):
        options = {"crop": crop, "antialias": antialias}
        expected = resize(decode(buffer.getvalue(), "x"), side, **options)
        np.testing.assert_array_equal(load(buffer.getvalue(), "x", side, **options), expected)


@pytest.mark.parametrize("antialias", [True, False])
def test_crops_keep_what_they_promise(antialias):
    image = ramp(32, 96)
    squash, short, center = (
        resize(image, 16, crop=c, antialias=antialias)
        for c in ("squash", "short_crop", "center_crop")
    )
    assert {x.shape for x in (squash, short, center)} == {(16, 16, 3)}
    # The ramp's range: all of it, the middle third, the middle sixth.
    for got, share in ((squash, 1), (short, 1 / 3), (center, 1 / 6)):
        span = float(got[8, -1, 0]) - float(got[8, 0, 0])
        assert span == pytest.approx(255 * share, rel=0.15)
        assert got.mean() == pytest.approx(127, abs=3)


def test_antialias_averages_and_its_absence_aliases():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    smooth = resize(stripes, 16, crop="squash", antialias=True)
    assert np.all(np.abs(smooth.astype(int) - 127) < 12)
    # Point sampling between pixels 1.5 and 2.5 of four sees one white and one black each.
    rough = resize(stripes[:, :62], 16, crop="squash", antialias=False)
    assert rough.astype(float).std() > smooth.astype(float).std() + 10


def test_unknown_crop_is_refused():
    with pytest.raises(ValueError, match="squash, short_crop, center_crop"):
        resize(ramp(4, 6), 2, crop="fit", antialias=True)
