"""The image files that the verb `sample` writes."""

import re
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from xmc_jax import files, images
from xmc_jax.console import notice
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.inference.loading import load


def sample(
    workdir: epath.PathLike,
    captions: Sequence[str],
    out: epath.PathLike,
    *,
    num_images: int = 4,
    seed: int = 0,
    step: int | None = None,
) -> None:
    """Generates images of captions; writes one PNG for each image, and ``grid.png``, to `out`.

    The workdir is the folder of a run or of an exported model. Other arguments as in
    `TrainedModel.generate` and `load`.

    Raises:
      UserError: there is no such run or checkpoint, or the folder cannot be written.
    """
    out = epath.Path(out)
    model = load(workdir, step=step)
    _warn_of_losses(model.tokenizer, captions)
    generated = model.generate(captions, seed=seed, num_images=num_images)
    for index, pixels in enumerate(generated):
        caption, copy = divmod(index, num_images)
        name = f"{caption:04d}_{_slug(captions[caption])}_{copy}.png"
        files.write_whole(out / name, images.encode_png(pixels))
    rows = generated.reshape(len(captions), num_images, *generated.shape[1:])
    files.write_whole(out / "grid.png", captioned_rows(captions, rows))
    print(f"generated {len(generated)} images with step {model.step}; see {out / 'grid.png'}")


def _warn_of_losses(tokenizer: Tokenizer, captions: Sequence[str]) -> None:
    """Prints a notice for each caption that the model cannot read in full."""
    for caption, length, unknown in zip(
        captions, tokenizer.lengths(captions), tokenizer.unknown_counts(captions), strict=True
    ):
        shown = caption if len(caption) <= 60 else caption[:57] + "..."
        if length > (limit := tokenizer.num_tokens):
            notice(f"{shown!r} has {length} word pieces; this model reads the first {limit}")
        if unknown:
            notice(
                f"{shown!r} has {unknown} word piece(s) that the text encoder does not know; it "
                "was trained on English"
            )


def _slug(caption: str) -> str:
    """The caption as part of a file name: at most 40 characters of a-z, 0-9 and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:40].strip("-") or "caption"


def captioned_rows(captions: Sequence[str], rows: UInt8[np.ndarray, "n m h w 3"]) -> bytes:
    """A PNG with a row of images under each caption."""
    factor = max(1, 128 // rows.shape[2])  # Small images are enlarged to about 128 pixels.
    grids = [images.enlarge(images.make_grid(row, num_columns=len(row)), factor) for row in rows]
    font, line = ImageFont.load_default(size=16), 26
    height, width = grids[0].shape[:2]
    width = max(width, 400)
    page = Image.new("RGB", (width, len(grids) * (height + line)), "white")
    draw = ImageDraw.Draw(page)
    for index, (caption, grid) in enumerate(zip(captions, grids, strict=True)):
        top = index * (height + line)
        text = " ".join(caption.split())
        while text and draw.textlength(text, font=font) > width - 12:
            text = text[:-2].rstrip("…") + "…"
        draw.text((6, top + 5), text, fill="black", font=font)
        page.paste(Image.fromarray(grid), (0, top + line))
    return images.encode_png(np.asarray(page))
