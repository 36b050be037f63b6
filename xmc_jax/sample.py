"""Draws captions of your own with a trained model.

    python -m xmc_jax.sample --workdir=runs/shapes_32 --caption="a red circle" --out=pictures
    python -m xmc_jax.sample --workdir=runs/shapes_32 --captions_file=captions.txt --out=pictures
    python -m xmc_jax.sample --demo --caption="a blue star"

The folder of an exported model serves as well as that of a run.
Writes to --out: one PNG a picture, and grid.png, a row of pictures under each caption.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError

_SHOWN_SIDE = 128  # Small pictures are enlarged to about this many pixels in the grid.


def main() -> None:
    """Reads the flags and draws."""
    captions, options = _read_captions(), flags.FLAGS
    out = Path(cli.required("out")).expanduser()
    if options.demo and options.workdir:
        raise UserError("--demo and --workdir name two models; give one of them")
    workdir = None if options.demo else cli.required("workdir")
    cli.set_up_jax()
    sample(
        workdir,
        captions,
        out,
        num_images=options.num_images,
        seed=options.seed,
        step=options.step,
    )


def sample(
    workdir: str | None,
    captions: Sequence[str],
    out: Path,
    *,
    num_images: int = 4,
    seed: int = 0,
    step: int | None = None,
) -> None:
    """Draws captions, and writes a PNG a picture and ``grid.png``.

    Args:
      workdir: Folder of a run or of an exported model; None: the demo.
      captions: What to draw.
      out: Folder for the pictures; made if it is not there.
      num_images: Pictures of each caption.
      seed: Of the noise.
      step: Which checkpoint; the newest if None.

    Raises:
      UserError: there is no such run or checkpoint, or the folder cannot be written.
    """
    # What can be found wrong at once is, before anything slow begins.
    from xmc_jax import files
    from xmc_jax.run.config import read_config

    if workdir is not None:
        read_config(workdir)

    from xmc_jax import images
    from xmc_jax.inference import exported
    from xmc_jax.inference import model as trained

    folder = exported.demo_folder() if workdir is None else workdir
    files.ensure_writable(out)
    model = trained.load(folder, step=step)
    _tell_what_is_lost(model.experiment.tokenizer, captions)
    drawn = model.generate(captions, seed=seed, num_images=num_images)
    for index, pixels in enumerate(drawn):
        caption, copy = divmod(index, num_images)
        name = f"{caption:04d}_{_slug(captions[caption])}_{copy}.png"
        (out / name).write_bytes(images.encode_png(pixels))
    rows = drawn.reshape(len(captions), num_images, *drawn.shape[1:])
    (out / "grid.png").write_bytes(_captioned_rows(captions, rows))
    print(f"drew {len(drawn)} pictures with step {model.step}; see {out / 'grid.png'}")


def _read_captions() -> list[str]:
    captions = list(flags.FLAGS.caption)
    if flags.FLAGS.captions_file:
        captions += cli.read_captions_file("captions_file")
    if not captions:
        raise UserError('nothing to draw: give --caption="…" or --captions_file=…')
    for caption in captions:
        if not caption.strip():
            raise UserError("a caption is empty; say what to draw")
    return captions


def _tell_what_is_lost(tokenizer, captions: list[str]) -> None:
    """Notices for captions that the model will not see as they were written."""
    for caption, length, unknown in zip(
        captions, tokenizer.lengths(captions), tokenizer.unknown_counts(captions), strict=True
    ):
        shown = caption if len(caption) <= 60 else caption[:57] + "..."
        if length > tokenizer.num_tokens:
            print(
                f"notice: {shown!r} has {length} word pieces; this model reads the first "
                f"{tokenizer.num_tokens}",
                file=sys.stderr,
            )
        if unknown:
            print(
                f"notice: {shown!r} has {unknown} word piece(s) that the text encoder does not "
                "know; it was trained on English",
                file=sys.stderr,
            )


def _slug(caption: str) -> str:
    """The caption as part of a file name: at most 40 characters of a-z, 0-9 and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:40].strip("-") or "caption"


def _captioned_rows(captions: list[str], rows) -> bytes:
    """A PNG with a row of pictures under each caption."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from xmc_jax import images

    factor = max(1, _SHOWN_SIDE // rows.shape[2])
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


def _define_flags() -> None:
    cli.define_workdir_flag()
    flags.DEFINE_multi_string("caption", [], "What to draw; may be given several times.")
    flags.DEFINE_string("captions_file", None, "Text file with a caption a line.")
    flags.DEFINE_bool("demo", False, "Draw with the model that comes with the package.")
    flags.DEFINE_string("out", "pictures", "Folder for the pictures (made if it is not there).")
    flags.DEFINE_integer("num_images", 4, "Pictures of each caption.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Chooses the noise: same seed, same pictures.")
    flags.DEFINE_integer("step", None, "Checkpoint to draw with; the newest if not given.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
