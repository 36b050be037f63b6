"""The shared parts of pages: numbers, images, and text that cannot break out of its place."""

import base64
import io
import json

import jinja2
import pytest
from PIL import Image

from xmc_jax.pages import render


def test_numbers():
    values = [None, 20000, 0.123456, 31.2345, 1.0]
    shown = ["–", "20,000", "0.1235", "31.23", "1"]
    assert [render.format_number(v) for v in values] == shown


def test_json_in_a_script_cannot_end_it():
    value = {"caption": '</script><!-- <b> & \u2028 "quoted"'}
    text = render.script_json(value)
    assert "<" not in text and json.loads(text) == value
    with pytest.raises(ValueError):
        render.script_json(float("nan"))


def test_a_missing_value_is_an_error_and_not_an_empty_place():
    with pytest.raises(jinja2.UndefinedError):
        render.render("report.html.jinja")


def test_cells_of_markdown_tables():
    assert render.markdown_cell("a|b\n<i> & *x*") == r"a\|b &lt;i> &amp; \*x\*"
    assert render.markdown_cell(("x_1", 2)) == r"('x\_1', 2)"


def test_images_are_embedded_in_the_page(monkeypatch):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), (1, 2, 3)).save(buffer, "PNG")
    png = buffer.getvalue()
    assert render.image_uri(png) == f"data:image/png;base64,{base64.b64encode(png).decode()}"
    monkeypatch.setattr(render, "MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr(render, "MAX_IMAGE_WIDTH", 20)
    kind, data = render.image_uri(png).removeprefix("data:image/").split(";base64,")
    assert kind == "webp" and Image.open(io.BytesIO(base64.b64decode(data))).size == (20, 10)
