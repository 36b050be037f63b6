"""Writes the pages of a study and its key."""

import datetime
import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from xmc_jax import files
from xmc_jax.console import waiting
from xmc_jax.data import preprocess
from xmc_jax.errors import UserError
from xmc_jax.images import encode_png
from xmc_jax.inference import hub
from xmc_jax.inference.loading import load
from xmc_jax.pages import render
from xmc_jax.run.folder import config_path
from xmc_jax.study import design

KEY_FILE = "key.json"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}

Pixels = UInt8[np.ndarray, "_ _ 3"]  # Each image has its own size.
Images = dict[str, list[Pixels]]  # For each system, one image for each caption.


def build(
    sources: Sequence[str],
    captions: Sequence[str],
    out: Path,
    *,
    num_raters: int = 20,
    seed: int = 0,
    secret: str | None = None,
) -> list[Path]:
    """Builds a study of two systems, and returns the paths of its pages.

    Args:
      sources: For each system, the folder of a run, of an exported model (or its address,
        ``hf://USER/NAME``), or of images; see `read_images`.
      captions: The captions to compare images of.
      out: Folder for ``for_raters/``, which the raters get, and ``key.json``.
      num_raters: Number of raters to prepare for.
      seed: Seed of the noise that models generate images from.
      secret: Seed of all other random choices; random if None.

    Raises:
      UserError: The folder already contains a study, an image is missing, or a file cannot be
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
    images = {s: read_images(source, captions, seed) for s, source in systems.items()}
    # All images are shown as squares of the shortest side of any of them.
    side = min(min(image.shape[:2]) for of_system in images.values() for image in of_system)

    secret = secret or secrets.token_hex(16)
    pages = design.make_pages(captions, num_raters=num_raters, secret=secret)
    key = design.make_key(pages, secret=secret, names=systems)
    key |= {"side": side, "seed": seed, "created": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
    with waiting("writing the pages for raters"):
        written = _write_pages(out / "for_raters", pages, images, side, key["study"])
    # The key comes last: a study without a key is incomplete, and can be built again.
    files.write_whole(key_path, (json.dumps(key, indent=1, ensure_ascii=False) + "\n").encode())
    return written


def _write_pages(
    folder: Path, pages: Sequence[design.Page], images: Images, side: int, study: str
) -> list[Path]:
    written = []
    for number, page in enumerate(pages, start=1):
        path = folder / (f"study_{number}.html" if len(pages) > 1 else "study.html")
        data = _page_data(page, images, side, study, number)
        html = render.render(
            "study.html.jinja", data=data, number=number, count=len(pages), side=side
        )
        files.write_whole(path, html.encode())
        written.append(path)
    return written


def read_images(source: str, captions: Sequence[str], seed: int) -> list[Pixels]:
    """One image for each caption.

    A source with a ``config.json`` is a model, which generates the images from noise of a seed. In
    any other folder, the name of an image begins with the number of its caption, from 0, as
    `sample` names it: ``0012_a-red-circle_0.png``; the first name counts if there are several.

    Raises:
      UserError: The folder does not exist, an image is missing or cannot be decoded.
    """
    if config_path(place := hub.local_folder(source)).exists():
        model = load(place)
        task = f"generating images of {len(captions)} captions with step {model.step} of {source}"
        with waiting(task):
            return list(model.generate(captions, seed=seed))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder {source}: give the folder of a run, a model, or images")
    return [_read_image(path) for path in _files_by_caption(folder, len(captions))]


def _files_by_caption(folder: Path, count: int) -> list[Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        number = re.match(r"(\d+)", path.name)
        if number and path.suffix.lower() in IMAGE_SUFFIXES:
            found.setdefault(int(number[1]), path)
    missing = [i for i in range(count) if i not in found]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise UserError(
            f"{folder} has no image for caption {shown}: the name of an image begins with the "
            f"number of its caption, from 0 to {count - 1}, as in 0000_a-red-circle.png"
        )
    if max(found) >= count:
        raise UserError(
            f"{folder} has an image for caption {max(found)}, and there are {count} captions, "
            "numbered from 0; give the captions that the images were generated for"
        )
    return [found[i] for i in range(count)]


def _read_image(path: Path) -> Pixels:
    try:
        return np.asarray(preprocess.open_upright(path.read_bytes()).image)
    except preprocess.UndecodableImage as error:
        raise UserError(f"{path} cannot be decoded ({error}); replace it") from error


def uniform_png(image: Pixels, side: int) -> bytes:
    """Middle square of an image at a common size, as PNG, so that no format reveals a system."""
    square = preprocess.resize(Image.fromarray(image), side, crop="short_crop", antialias=True)
    return encode_png(np.asarray(square))


def _page_data(
    page: design.Page, images: Images, side: int, study: str, number: int
) -> dict[str, Any]:
    """Data of the page's script; none of it reveals which system made an image."""
    rng = np.random.default_rng(int(study, 16) + number)

    def uri(item: design.Item, source: str) -> str:
        if source == design.NOISE:
            image = rng.integers(0, 256, (side, side, 3), np.uint8)
        else:
            image = images[source][item.caption_index]
        return render.data_uri(uniform_png(image, side), "png")

    items = [
        {"id": x.id, "caption": x.caption, "images": [uri(x, source) for source in x.images]}
        for x in page.items
    ]
    return {"study": study, "page": number, "items": items, "schedules": page.schedules}
