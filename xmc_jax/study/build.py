"""Writes the pages of a study and, apart from them, its key."""

import datetime
import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from xmc_jax import files, images
from xmc_jax.console import waiting
from xmc_jax.errors import UserError
from xmc_jax.pages import render
from xmc_jax.run.folder import config_path
from xmc_jax.study import design

PAGES_FOLDER = "for_raters"
KEY_FILE = "key.json"
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}

Pixels = UInt8[np.ndarray, "_ _ 3"]  # Of any size each.
Pictures = dict[str, list[Pixels]]  # Of each system, one a caption.


def build(
    sources: Sequence[str],
    captions: Sequence[str],
    out: Path,
    *,
    num_raters: int = 20,
    seed: int = 0,
    secret: str | None = None,
) -> list[Path]:
    """Builds a study of two systems.

    Args:
      sources: For each of the two: the folder of a run or of an exported model, which draws, or a
        folder of pictures; see `read_pictures`.
      captions: What is compared.
      out: Folder for ``for_raters/``, which holds what raters get, and ``key.json``.
      num_raters: Raters to prepare for.
      seed: Of the noise that pictures are drawn with.
      secret: Decides what is left to chance; drawn if None.

    Returns:
      The pages.

    Raises:
      UserError: there is a study in the folder already, pictures are missing, or nothing can be
        written.
    """
    key_path = out / KEY_FILE
    if key_path.exists():
        raise UserError(
            f"there is a study in {out} already, and ratings of it need its key; "
            "choose another --out"
        )
    files.ensure_writable(out)
    systems = dict(zip(design.SYSTEMS, sources, strict=True))
    pictures = {s: read_pictures(source, captions, seed) for s, source in systems.items()}
    side = common_side([picture for drawn in pictures.values() for picture in drawn])

    secret = secret or secrets.token_hex(16)
    laid_out = design.make_pages(captions, num_raters=num_raters, secret=secret)
    key = design.make_key(laid_out, secret=secret, names=systems)
    key |= {"side": side, "seed": seed, "created": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
    with waiting("writing what raters get"):
        written = _write_pages(out / PAGES_FOLDER, laid_out, pictures, side, key["study"])
    # Last: a study without a key was cut off while it was built, and is built anew.
    key_path.write_text(json.dumps(key, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return written


def _write_pages(
    folder: Path, laid_out: Sequence[design.Page], pictures: Pictures, side: int, study: str
) -> list[Path]:
    folder.mkdir(exist_ok=True)
    written = []
    for number, page in enumerate(laid_out, start=1):
        path = folder / (f"study_{number}.html" if len(laid_out) > 1 else "study.html")
        html = render.render(
            "study.html.jinja",
            data=page_data(page, pictures, side=side, study=study, number=number),
            number=number,
            count=len(laid_out),
            side=side,
        )
        path.write_text(html, encoding="utf-8")
        written.append(path)
    return written


def read_pictures(source: str, captions: Sequence[str], seed: int) -> list[Pixels]:
    """One picture for each caption.

    Args:
      source: A folder with a ``config.json`` is a model and draws them. In any other, a picture's
        name begins with the number of its caption, from 0, as `sample` names them:
        ``0012_a-red-circle_0.png``; of several for one caption the first by name is taken.
      captions: What is to be seen.
      seed: Of the noise.

    Raises:
      UserError: there is no such folder, no picture for some caption, or one is damaged.
    """
    folder = Path(source).expanduser()
    if config_path(source).exists():
        from xmc_jax.inference import model as trained

        model = trained.load(source)
        with waiting(f"drawing {len(captions)} captions with step {model.step} of {source}"):
            return list(model.generate(captions, seed=seed))
    if not folder.is_dir():
        raise UserError(f"no folder {source}: give that of a run, of a model, or of pictures")
    return [_read_picture(path) for path in _files_by_caption(folder, len(captions))]


def _files_by_caption(folder: Path, count: int) -> list[Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        number = re.match(r"(\d+)", path.name)
        if number and path.suffix.lower() in PICTURE_SUFFIXES:
            found.setdefault(int(number[1]), path)
    missing = [i for i in range(count) if i not in found]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise UserError(
            f"{folder} has no picture for caption {shown}: a picture's name begins with the number "
            f"of its caption, from 0 to {count - 1}, as in 0000_a-red-circle.png"
        )
    if max(found) >= count:
        raise UserError(
            f"{folder} has a picture for caption {max(found)}, and there are {count} captions, "
            "numbered from 0; give the captions that the pictures were drawn for"
        )
    return [found[i] for i in range(count)]


def _read_picture(path: Path) -> Pixels:
    from xmc_jax.data import preprocess

    try:
        return np.asarray(preprocess.open_upright(path.read_bytes()).image)
    except preprocess.UndecodableImage as error:
        raise UserError(f"{path} cannot be decoded ({error}); replace it") from error


def common_side(pictures: Sequence[Pixels]) -> int:
    """The side of the square that all pictures are shown at: the shortest side of any of them."""
    return min(min(picture.shape[:2]) for picture in pictures)


def uniform_png(picture: Pixels, side: int) -> bytes:
    """A picture as every other of the study: its middle square, at one size, in one codec."""
    from xmc_jax.data import preprocess

    return images.encode_png(preprocess.resize(picture, side, crop="short_crop", antialias=True))


def page_data(
    page: design.Page, pictures: Pictures, *, side: int, study: str, number: int
) -> dict[str, Any]:
    """What the page's script works on; nothing of it tells one system from the other."""
    rng = np.random.default_rng(int(study, 16) + number)

    def uri(item: design.Item, source: str) -> str:
        if source == design.NOISE:
            picture = rng.integers(0, 256, (side, side, 3), np.uint8)
        else:
            picture = pictures[source][item.caption_index]
        return render.data_uri(uniform_png(picture, side), "png")

    return {
        "study": study,
        "page": number,
        "items": [
            {
                "id": item.id,
                "caption": item.caption,
                "pictures": [uri(item, source) for source in item.pictures],
            }
            for item in page.items
        ],
        "schedules": page.schedules,
    }
