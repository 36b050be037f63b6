"""Decodes image files and makes them square, with Pillow."""

import io
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from xmc_jax.errors import UserError, reason

CROPS = ("squash", "short_crop", "center_crop")
# Pillow must try no other formats: it passes some of them to external programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# A small file can claim any size in its header, which is checked before memory is allocated. The
# largest photographs of the data sets have a twentieth of this.
_MAX_PIXELS = 89_478_485  # Pillow warns of decompression bombs from here on.


class UndecodableImage(ValueError):
    """Bytes that are not a whole image; the message gives the reason."""


class Opened(NamedTuple):
    """A decoded image file.

    Attributes:
      image: The image: RGB, upright.
      format: Format of the file: ``"JPEG"``, ``"PNG"``, …
      mode: Color mode of the file: ``"RGB"``, ``"L"``, ``"CMYK"``, …
      transparent: Whether the file has transparent pixels.
      rotated: Whether the file has an EXIF orientation other than upright.
      comment: Comment of a JPEG file; empty if there is none.
    """

    image: Image.Image
    format: str
    mode: str
    transparent: bool
    rotated: bool
    comment: bytes


def open_upright(data: bytes, background: str = "white") -> Opened:
    """Decodes a whole JPEG, PNG, WebP, BMP or GIF file; of an animation, its first frame.

    Gray, palette and CMYK images become RGB. Transparent pixels are blended with the background, a
    colour as Pillow names it. It is white by default: such images are made for web pages, and dark
    lines would vanish on black. The EXIF orientation is applied.

    Raises:
      UndecodableImage: the bytes are truncated or damaged, have another format, or claim more than
        89 million pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            if file.width * file.height > _MAX_PIXELS:
                raise UndecodableImage(f"{file.width}x{file.height} pixels are too many")
            file.load()
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
            rotated = orientation in range(2, 9)
            image = ImageOps.exif_transpose(file) if rotated else file
            rgb = _to_rgb(image, background)
            transparent, comment = file.has_transparency_data, file.info.get("comment", b"")
            return Opened(rgb, file.format, file.mode, transparent, rotated, comment)
    except UndecodableImage:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage("not an image file") from error
    except Exception as error:  # On damaged bytes Pillow's readers raise many kinds.
        raise UndecodableImage(reason(error)) from error


def _to_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:  # Converting copies even RGB.
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image).convert("RGB")


def load(
    data: bytes, name: str, resolution: int, *, crop: str, antialias: bool
) -> UInt8[np.ndarray, "side side 3"]:
    """`decode` and `resize` in one; arguments and errors as theirs."""
    return np.asarray(resize(_open(data, name), resolution, crop=crop, antialias=antialias))


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file as `open_upright` does.

    Raises UserError with the name of the image if the bytes are not a whole image.
    """
    return np.asarray(_open(data, name))


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return open_upright(data).image
    except UndecodableImage as error:
        raise UserError(
            f"image {name} cannot be decoded ({reason(error)}); build the data set again"
        ) from error


def resize(image: Image.Image, resolution: int, *, crop: str, antialias: bool) -> Image.Image:
    """Makes an RGB image square, with sides of `resolution` pixels.

    Args:
      crop: ``"squash"`` scales both sides independently; ``"short_crop"`` scales the shorter side
        and crops the middle of the longer one; ``"center_crop"`` crops the middle without scaling,
        except that smaller images are scaled up. Others raise ValueError.
      antialias: If true, a pixel of a smaller result averages all the pixels that it covers;
        otherwise it interpolates between the nearest four, as the released code does.
    """
    size, (width, height) = (resolution, resolution), image.size
    if image.size == size:
        return image
    if crop not in CROPS:
        raise ValueError(f"crop={crop!r} is not one of {', '.join(CROPS)}")
    kept_width, kept_height = width, height
    if crop != "squash":
        kept_width = kept_height = min(width, height)
    if crop == "center_crop":
        kept_width = kept_height = min(width, height, resolution)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    if antialias:
        box = (left, top, left + kept_width, top + kept_height)
        return image.resize(size, Image.Resampling.BILINEAR, box=box)
    affine = (kept_width / resolution, 0.0, left, 0.0, kept_height / resolution, top)
    return image.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
