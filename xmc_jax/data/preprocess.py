"""Image files to square arrays of bytes, with Pillow."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from xmc_jax.errors import UserError

CROPS = ("squash", "short_crop", "center_crop")


def load(
    data: bytes, name: str, resolution: int, *, crop: str, antialias: bool
) -> UInt8[np.ndarray, "side side 3"]:
    """`decode` and `resize` in one, without the copies between them.

    Raises:
      UserError: the bytes are not a whole image.
      ValueError: there is no such crop.
    """
    return np.asarray(_resize(_open(data, name), resolution, crop, antialias))


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file; gray, palette, CMYK and transparent images become RGB.

    Args:
      data: The bytes of a PNG, JPEG or other file that Pillow reads.
      name: What to call the image in an error.

    Raises:
      UserError: the bytes are not a whole image.
    """
    return np.asarray(_open(data, name))


def resize(
    image: UInt8[np.ndarray, "h w 3"], resolution: int, *, crop: str, antialias: bool
) -> UInt8[np.ndarray, "side side 3"]:
    """Makes an image square.

    Args:
      image: Pixels, 0..255.
      resolution: Side of the result.
      crop: ``"squash"`` scales both sides on their own; ``"short_crop"`` scales the shorter side
        and cuts the middle out of the longer; ``"center_crop"`` cuts the middle without scaling
        (scaling up only what is smaller than the result).
      antialias: Whether shrinking averages over all pixels that a new one covers, or interpolates
        between the nearest four (as the released code does).

    Raises:
      ValueError: there is no such crop.
    """
    if image.shape[:2] == (resolution, resolution):
        return image
    return np.asarray(_resize(Image.fromarray(image), resolution, crop, antialias))


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode != "RGB":  # Converting copies even where there is nothing to convert.
                return image.convert("RGB")
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image {name} cannot be decoded ({error}); build the data set anew"
        ) from error


def _resize(image: Image.Image, resolution: int, crop: str, antialias: bool) -> Image.Image:
    width, height = image.size
    if (height, width) == (resolution, resolution):
        return image
    if crop == "squash":
        box = (0.0, 0.0, float(width), float(height))
    elif crop in CROPS:
        side = min(height, width)
        if crop == "center_crop":
            side = min(side, resolution)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    else:
        raise ValueError(f"crop={crop!r} is not one of {', '.join(CROPS)}")
    size = (resolution, resolution)
    if antialias:
        return image.resize(size, Image.Resampling.BILINEAR, box=box)
    x_scale, y_scale = (box[2] - box[0]) / resolution, (box[3] - box[1]) / resolution
    affine = (x_scale, 0.0, box[0], 0.0, y_scale, box[1])
    return image.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
