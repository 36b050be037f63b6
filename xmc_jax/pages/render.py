"""What the pages of `report`, `compare` and `study` share: one file each, that needs no network.

Templates are in ``templates/``; `base.html.jinja` has the frame, the colours and the common styles.
Pictures travel inside the page, as data URIs.
"""

import base64
import io
import json
import re
from typing import Any

MAX_PICTURE_BYTES = 150_000  # A larger picture is embedded as WebP, at most this many pixels wide:
MAX_PICTURE_WIDTH = 1600


def render(template: str, **context: Any) -> str:
    """The page of a template, every value escaped, an unknown name an error.

    Filters of ours: ``number`` (see `format_number`), ``breakable`` (lines may break after the
    separators of a metric's name) and ``script_json`` (see `script_json`).
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xmc_jax.pages", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["breakable"] = _breakable
    environment.filters["script_json"] = script_json
    return environment.get_template(template).render(**context)


def format_number(value: Any) -> str:
    """Four significant digits; whole numbers in full, thousands apart; None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"


def script_json(value: Any):
    """JSON for inside of a ``<script>``: no ``</script>`` or ``<!--`` in a caption can end it."""
    import markupsafe

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return markupsafe.Markup(text.replace("<", "\\u003c"))


def _breakable(name: str):
    import markupsafe

    return markupsafe.Markup(re.sub(r"([/_.])", r"\1<wbr>", str(markupsafe.escape(name))))


def data_uri(data: bytes, kind: str) -> str:
    """The bytes of a picture (``png``, ``webp``) as an address of themselves."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def picture_uri(png: bytes) -> str:
    """A PNG for a page: as it is, or as a smaller WebP if it is large."""
    from PIL import Image

    if len(png) <= MAX_PICTURE_BYTES:
        return data_uri(png, "png")
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((MAX_PICTURE_WIDTH, 100 * MAX_PICTURE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88)
    return data_uri(buffer.getvalue(), "webp")
