"""The report: one page with everything in it, whatever the run has got so far."""

import base64
import html.parser
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from xmc_jax import images, report, workdir
from xmc_jax.errors import UserError

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


def make_run(path, *, records=(), steps=(), enlarged: int = 1):
    """A workdir as training and evaluation leave it."""
    config = {"seed": 0, "model": {"resolution": 16, "width": 8}, "data": {"name": "shapes"}}
    workdir.ensure_writable(path)
    workdir.write_config(path, ConfigDict(config))
    workdir.append_metrics(path, records)
    if steps:
        workdir.samples_dir(path).mkdir()
        layout = {"captions": CAPTIONS, "columns": 2}
        workdir.captions_path(path).write_text(json.dumps(layout))
    pictures = np.broadcast_to(np.array(COLOURS, np.uint8)[:, None, None], (3, 16, 16, 3))
    for step in steps:
        grid = images.make_grid(pictures // (1 + step % 3), num_columns=2)
        png = images.encode_png(images.enlarge(grid, enlarged))
        workdir.sample_path(path, step).write_bytes(png)
    return path


class Page(html.parser.HTMLParser):
    """Text, links and balance of a page."""

    VOID = {"meta", "input", "wbr", "br"}

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


def test_whole_report(tmp_path):
    records = [*train_records(30), evaluation(100, 0.5), evaluation(300, 0.8765432)]
    records += [evaluation(300, 31.5, metric="fd_vgg16", weights="ab" * 32, floor=None)]
    make_run(tmp_path / "my run", records=records, steps=range(100, 400, 100))
    path = report.write_report(tmp_path / "my run")

    assert path == workdir.report_path(tmp_path / "my run")
    source = path.read_text()
    page = Page(source)
    text = " ".join("".join(page.text).split())
    title = "Generator: retrieval accuracy"
    for expected in ("my run", "Step 300", "a red <circle> & friends", "shapes_accuracy/colour",
                     "0.8765", "0.99", "0.25", "1,234", "abababababab", "31.5", "resolution",
                     "Discriminator: losses", title, "jax 0."):  # fmt: skip
        assert expected in text
    assert "<circle>" not in source
    assert [link for link in page.links if not link.startswith("#")] == []
    assert not re.search(r"url\((?!data:|#|\$)|@import|<link|<script src", source)
    assert source.count("<svg") == 3  # Two groups of losses, one metric seen twice.
    used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', source))
    assert used and used <= set(page.ids)


def test_an_empty_run_says_what_is_missing(tmp_path):
    page = Page(report.write_report(make_run(tmp_path)).read_text())
    text = "".join(page.text)
    assert "There are none yet" in text and "xmc_jax.evaluate" in text
    assert "No training step has been recorded yet" in text


def test_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        report.write_report(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    make_run(tmp_path, steps=[1])
    workdir.captions_path(tmp_path).unlink()
    with pytest.raises(UserError, match=r"captions.json is missing"):
        report.write_report(tmp_path)


@pytest.mark.parametrize("enlarged", [1, 3])
def test_tiles_show_exactly_the_picture_of_their_caption(tmp_path, enlarged):
    """Computes what a browser shows of a background with this size and position."""
    make_run(tmp_path, steps=[3], enlarged=enlarged)
    samples = report.sample_grids(tmp_path, resolution=16)
    encoded = samples["grids"][0]["uri"].removeprefix("data:image/png;base64,")
    grid = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    assert [tile["caption"] for tile in samples["tiles"]] == CAPTIONS
    for tile, colour in zip(samples["tiles"], COLOURS, strict=True):
        width, height, x, y = (float(v) / 100 for v in re.findall(r"([\d.]+)%", tile["style"]))
        side = grid.width / width
        assert grid.height / height == pytest.approx(side, rel=1e-4)
        left, top = x * (grid.width - side), y * (grid.height - side)
        assert side == pytest.approx(16 * enlarged, rel=1e-4)
        box = [round(v) for v in (left, top, left + side, top + side)]
        shown = np.asarray(grid.crop(box)).reshape(-1, 3)
        assert (shown == colour).all()


def test_many_grids_are_thinned_and_large_ones_made_smaller(tmp_path, monkeypatch):
    make_run(tmp_path, steps=range(1, 101))
    samples = report.sample_grids(tmp_path, resolution=16)
    steps = [grid["step"] for grid in samples["grids"]]
    assert len(steps) == report.MAX_GRIDS and steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (1, 100)
    monkeypatch.setattr(report, "MAX_GRID_BYTES", 10)
    monkeypatch.setattr(report, "MAX_GRID_WIDTH", 20)
    uri = report.sample_grids(tmp_path, resolution=16)["grids"][0]["uri"]
    kind, data = uri.removeprefix("data:image/").split(";base64,")
    assert kind == "webp" and Image.open(io.BytesIO(base64.b64decode(data))).size == (20, 20)


def test_latest_evaluation_of_each_protocol_counts():
    rows = report.latest_evaluations(
        [
            evaluation(100, 0.1),
            evaluation(300, 0.3),
            evaluation(300, 0.4),  # Measured again.
            evaluation(200, 0.2),  # An older checkpoint, measured later.
            evaluation(100, 0.9, protocol="test, ema"),
        ]
    )
    assert {row["protocol"]: row["value"] for row in rows} == {"val, ema": 0.4, "test, ema": 0.9}


def test_numbers():
    values = [None, 20000, 0.123456, 31.2345, 1.0, True]
    assert [report.format_number(v) for v in values[:5]] == [
        "–", "20,000", "0.1235", "31.23", "1"]  # fmt: skip


def test_blocks_keep_mean_and_extremes():
    points = [(step, float(step % 10)) for step in range(1, 10 * report.MAX_POINTS + 1)]
    steps, means, lows, highs = report._blocks(points)
    assert len(steps) == report.MAX_POINTS and steps[-1] == points[-1][0]
    assert set(means) == {4.5} and set(lows) == {0.0} and set(highs) == {9.0}
    assert report._blocks(points[:3]) == (
        [1, 2, 3],
        [1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0],
    )


def test_curves_leave_gaps_for_missing_values_and_need_two_evaluations():
    curves = report.training_curves([{"step": 1, "d/a": None}, {"step": 2, "d/a": 1.0}])
    assert [curve["title"] for curve in curves] == ["Discriminator: losses"]
    assert report.training_curves([{"step": 1, "d/a": None}]) == []
    assert report.evaluation_curves([evaluation(1, 0.5), evaluation(2, None)]) == []
    assert len(report.evaluation_curves([evaluation(1, 0.5), evaluation(2, 0.6)])) == 1


def test_command_line(tmp_path):
    make_run(tmp_path, records=train_records(3))
    command = [sys.executable, "-m", "xmc_jax.report"]
    done = subprocess.run([*command, f"--workdir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"wrote {workdir.report_path(tmp_path)}"
    for arguments, message in (
        ([], "error: --workdir is missing"),
        (["--workdir=/nowhere"], "error: no run in /nowhere"),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(message) and len(done.stderr.splitlines()) == 1
