"""The Jinja environment of all pages and documents.

Templates are in ``templates/``; `base.html.jinja` holds the frame, the colours and the common
styles. HTML pages are single files that need no network: images are data URIs.
"""

import base64
import io
import json
import re
from typing import Any

import jinja2
import markupsafe
from PIL import Image

MAX_IMAGE_BYTES = 150_000  # A larger image is embedded as WebP of at most this width in pixels:
MAX_IMAGE_WIDTH = 1600


def render(template: str, **context: Any) -> str:
    """Renders a template; a name that the context lacks is an error.

    Values are escaped in HTML and inserted as they are in Markdown. The filters are ``number``
    (`format_number`), ``breakable`` (allows line breaks after the separators of a metric's name),
    ``cell`` (`markdown_cell`) and ``script_json`` (`script_json`).
    """
    return _ENVIRONMENT.get_template(template).render(**context)


def format_number(value: Any) -> str:
    """Four significant digits; integers in full with thousands separators; None as a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def markdown_cell(value: Any) -> str:
    """Text for a cell of a Markdown table: one line, every special character escaped."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", text)


def script_json(value: Any) -> markupsafe.Markup:
    """JSON for a ``<script>`` element; no ``</script>`` or ``<!--`` in a string can end it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return markupsafe.Markup(text.replace("<", "\\u003c"))


def data_uri(data: bytes, kind: str) -> str:
    """The data URI of an image file of a kind such as ``png`` or ``webp``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_uri(png: bytes) -> str:
    """The data URI of a PNG file; a large one is converted to a smaller WebP."""
    if len(png) <= MAX_IMAGE_BYTES:
        return data_uri(png, "png")
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((MAX_IMAGE_WIDTH, 100 * MAX_IMAGE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88)
    return data_uri(buffer.getvalue(), "webp")


def _breakable(name: Any) -> markupsafe.Markup:
    return markupsafe.Markup(re.sub(r"([/_.])", r"\1<wbr>", str(markupsafe.escape(name))))


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("xmc_jax.pages", "templates"),
    autoescape=jinja2.select_autoescape(["html.jinja"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "number": format_number,
    "breakable": _breakable,
    "cell": markdown_cell,
    "script_json": script_json,
}
