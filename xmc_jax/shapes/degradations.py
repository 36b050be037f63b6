"""Degradations of images that imitate the faults of generated images.

The scorer is trained on degraded renders, and readers are compared on them. All lengths scale with
the image's side, so that a strength means the same at every resolution.
"""

import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

Pixels = Float[np.ndarray, "h w 3"]


def degrade(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, strength: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Applies each fault with probability one half and a random severity.

    Args:
      image: Any image; its top left pixel is taken as the background colour.
      rng: Chooses faults and severities.
      strength: Largest severity, 0..3. At 0 only JPEG of the best quality changes the image; at 1
        most shapes are just recognisable at 32 pixels.
    """
    pixels = image.astype(np.float32)
    for fault in FAULTS:
        if rng.random() < 0.5:
            pixels = fault(pixels, rng, strength * rng.random())
    return _to_uint8(pixels)


def warp(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Rotates (up to 10 degrees), stretches, shears (10 %) and shifts (2 % of the side)."""
    height, width, _ = pixels.shape
    centre = np.array([width, height]) / 2
    angle = np.deg2rad(10.0) * severity * rng.uniform(-1, 1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation + 0.1 * severity * rng.uniform(-1, 1, (2, 2))
    shift = centre - matrix @ centre + 0.02 * severity * rng.uniform(-1, 1, 2) * width
    moved = Image.fromarray(_to_uint8(pixels)).transform(
        (width, height),
        Image.Transform.AFFINE,
        (*matrix[0], shift[0], *matrix[1], shift[1]),
        Image.Resampling.BILINEAR,
        fillcolor=tuple(int(v) for v in _to_uint8(pixels)[0, 0]),
    )
    return np.asarray(moved, np.float32)


def erase(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Fills up to three boxes, of up to an eighth of the side, with the background colour."""
    height, width, _ = pixels.shape
    pixels, background = pixels.copy(), pixels[0, 0].copy()
    for _ in range(rng.integers(1, 4)):
        h, w = (round(side * severity * rng.uniform(0.25, 1) / 8) for side in (height, width))
        top, left = rng.integers(height - h), rng.integers(width - w)
        pixels[top : top + h, left : left + w] = background
    return pixels


def blur(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Gaussian blur with a standard deviation of up to 1/32 of the side."""
    sigma = severity * pixels.shape[1] / 32
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest", truncate=3)


def downsample(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Resizes to two thirds of the side or more, and back."""
    height, width, _ = pixels.shape
    small = tuple(max(round(side * (1 - severity / 3)), 1) for side in (width, height))
    image = Image.fromarray(_to_uint8(pixels)).resize(small, Image.Resampling.BILINEAR)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def contrast(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Scales the distance of values from middle gray by up to a quarter, up or down."""
    return 128 + (pixels - 128) * (1 + 0.25 * severity * rng.choice((-1, 1)))


def shift_colours(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Shifts each channel by up to 24."""
    return pixels + np.float32(24 * severity * rng.uniform(-1, 1, (1, 1, 3)))


def stain(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Adds smooth colour stains with a standard deviation of up to 16."""
    height, width, _ = pixels.shape
    coarse = rng.normal(size=(5, 5, 3)).astype(np.float32) * 16 * severity
    channels = (Image.fromarray(channel) for channel in np.moveaxis(coarse, -1, 0))
    large = [channel.resize((width, height), Image.Resampling.BICUBIC) for channel in channels]
    return pixels + np.stack(large, axis=-1)


def add_noise(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Adds independent Gaussian noise with a standard deviation of up to 24."""
    return pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(24 * severity)


def compress(pixels: Pixels, rng: np.random.Generator, severity: float) -> Pixels:
    """Compresses as JPEG with quality 98 down to 25 and without chroma subsampling."""
    buffer, quality = io.BytesIO(), max(round(98 - 73 * severity), 1)
    Image.fromarray(_to_uint8(pixels)).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer), np.float32)


# In the order of application: to the scene, to the image, to its file.
FAULTS = (warp, erase, blur, downsample, contrast, shift_colours, stain, add_noise, compress)


def _to_uint8(pixels: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    return np.round(np.clip(pixels, 0, 255)).astype(np.uint8)
