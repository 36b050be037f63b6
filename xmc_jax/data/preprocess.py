"""Image files to square arrays of bytes, with Pillow."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from xmc_jax.errors import UserError

CROPS = ("squash", "short_crop", "center_crop")


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file; gray, palette, CMYK and transparent images become RGB.

    Args:
      data: The bytes of a PNG, JPEG or other file that Pillow reads.
      name: What to call the image in an error.

    Raises:
      UserError: the bytes are not a whole image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image {name} cannot be decoded ({error}); build the data set anew"
        ) from error


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
    height, width = image.shape[:2]
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
    picture, size = Image.fromarray(image), (resolution, resolution)
    if antialias:
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box))
    x_scale, y_scale = (box[2] - box[0]) / resolution, (box[3] - box[1]) / resolution
    affine = (x_scale, 0.0, box[0], 0.0, y_scale, box[1])
    return np.asarray(
        picture.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    )
