"""Runs to make pages of, and checks of pages."""

import html.parser
import json
import re

import numpy as np
from ml_collections import ConfigDict

from xmc_jax import files, images
from xmc_jax.run.config import write_config
from xmc_jax.run.folder import captions_path, sample_path, samples_dir
from xmc_jax.run.records import append_metrics

CAPTIONS = ["a red <circle> & friends", "a blue square", "two stars"]
COLOURS = [(220, 30, 30), (30, 30, 220), (240, 220, 40)]


def evaluation(step: int, value: float | None, **fields) -> dict:
    return {
        "kind": "eval",
        "step": step,
        "metric": "shapes_accuracy/colour",
        "protocol": "val, ema",
        "value": value,
        "num_samples": 1234,
        "seed": 0,
        "weights": None,
        "ceiling": 0.99,
        "floor": 0.25,
    } | fields


def train_records(count: int) -> list[dict]:
    return [
        {"kind": "train", "step": 10 * i, "d/hinge": 1 + i % 2, "g/word_accuracy": i / count}
        for i in range(1, count + 1)
    ]


def make_run(path, *, records=(), steps=(), enlarged: int = 1, config=None):
    """Writes a workdir as training and evaluation do, without checkpoints."""
    model = {"resolution": 16, "generator_width": 8}
    config = config or {"seed": 7, "batch_size": 4, "d_steps": 2, "model": model}
    files.ensure_writable(path)
    write_config(path, ConfigDict(config))
    append_metrics(path, records)
    if steps:
        samples_dir(path).mkdir()
        layout = {"captions": CAPTIONS, "columns": 2}
        captions_path(path).write_text(json.dumps(layout))
    samples = np.broadcast_to(np.array(COLOURS, np.uint8)[:, None, None], (3, 16, 16, 3))
    for step in steps:
        grid = images.make_grid(samples // (1 + step % 3), num_columns=2)
        png = images.encode_png(images.enlarge(grid, enlarged))
        sample_path(path, step).write_bytes(png)
    return path


class Page(html.parser.HTMLParser):
    """Parses a page: text, links and ids; asserts that tags are balanced."""

    VOID = {"meta", "input", "wbr", "br", "img"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.text, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        self.ids += [v for k, v in attributes if k == "id"]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)


def assert_needs_no_network(source: str) -> None:
    """Asserts that a page refers to nothing outside of it."""
    assert [link for link in Page(source).links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!data:|#)|@import|<link|<script src|fetch\(", source)
