"""The report: one page with everything in it, however far the run has got."""

import base64
import importlib
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.page import (
    CAPTIONS,
    COLOURS,
    Page,
    assert_needs_no_network,
    evaluation,
    make_run,
    train_records,
)
from tests.places import ROOT
from xmc_jax.errors import UserError
from xmc_jax.pages import curves, render, report
from xmc_jax.run.folder import captions_path, report_path
from xmc_jax.run.records import evaluations


def test_whole_report(tmp_path):
    start = {"kind": "start", "step": 0, "time": "2026-01-01T00:00:00", "platform": "Linux",
             "devices": "4 x TPU v9", "versions": {"jax": "1.2.3"}}  # fmt: skip
    records = [
        start,
        *train_records(30),
        evaluation(100, 0.5),
        evaluation(300, 0.8765432, low=0.81, high=0.92),
    ]
    records += [evaluation(300, 31.5, metric="fd_vgg16", weights="ab" * 32, floor=None)]
    make_run(tmp_path / "my run", records=records, steps=range(100, 400, 100))
    path = report.write_report(tmp_path / "my run")

    assert path == report_path(tmp_path / "my run")
    source = path.read_text()
    page = Page(source)
    text = " ".join("".join(page.text).split())
    title = "Generator: retrieval accuracy"
    for expected in ("my run", "step 300", "a red <circle> & friends", "shapes_accuracy/colour",
                     "0.8765 0.81 to 0.92", "0.99", "0.25", "1,234", "abababababab", "31.5",
                     "resolution", "Discriminator: losses", title, "4 x TPU v9", "jax 1.2.3",
                     "real images seen 2,400", "batch_size 4 "):  # fmt: skip
        assert expected in text
    assert "<circle>" not in source
    assert_needs_no_network(source)
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
    captions_path(tmp_path).unlink()
    with pytest.raises(UserError, match=r"captions.json is missing"):
        report.write_report(tmp_path)


@pytest.mark.parametrize("enlarged", [1, 3])
def test_tiles_show_exactly_the_image_of_their_caption(tmp_path, enlarged):
    """Computes the part of a background of this size and position that a browser shows."""
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
    monkeypatch.setattr(render, "MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr(render, "MAX_IMAGE_WIDTH", 20)
    uri = report.sample_grids(tmp_path, resolution=16)["grids"][0]["uri"]
    kind, data = uri.removeprefix("data:image/").split(";base64,")
    assert kind == "webp" and Image.open(io.BytesIO(base64.b64decode(data))).size == (20, 20)


def test_curves_leave_gaps_for_missing_values_and_need_two_evaluations():
    records = [{"kind": "train", "step": step, "d/a": a} for step, a in ((1, None), (2, 1.0))]
    titles = [figure.title for figure in report.training_curves(records, {})]
    assert titles == ["Discriminator: losses"]
    assert report.training_curves(records[:1], {}) == []
    names = ("probe/sentence/colour", "probe/sentence/size", "probe/word/size")
    records += [{"kind": "probe", "step": step, **dict.fromkeys(names, 0.5)} for step in (1, 2)]
    figures = report.training_curves(records, {})
    swapped = [f"Discriminator: swapped words, {score} score" for score in ("sentence", "word")]
    assert [figure.title for figure in figures] == ["Discriminator: losses", *swapped]
    assert ">colour</text>" in figures[1].svg and ">size</text>" in figures[1].svg
    records = records[:2]
    for second, count in ((None, 0), (0.6, 1)):
        records = evaluations([evaluation(1, 0.5), evaluation(2, second)])
        assert len(curves.plot_metrics({"run": records})) == count


def test_command_line(tmp_path):
    make_run(tmp_path, records=train_records(3))
    command = [sys.executable, "-m", "xmc_jax.report"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    there = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment}
    assert subprocess.run([*command, "--workdir=."], **there).returncode == 0
    assert f"<h1>{tmp_path.name}</h1>" in report_path(tmp_path).read_text()
    done = subprocess.run([*command, f"--workdir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"wrote {report_path(tmp_path)}"
    for arguments, message in (
        ([], "error: --workdir is missing"),
        (["--workdir=/nowhere"], "error: no run in /nowhere"),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(message) and len(done.stderr.splitlines()) == 1


def test_evaluations_measured_alike_stand_together():
    records = [evaluation(3, 0.5), evaluation(3, 9.0, metric="other"), evaluation(3, 1.0, seed=1)]
    groups = report.by_protocol(evaluations(records))
    assert [[row.metric for row in group] for group in groups] == [
        ["shapes_accuracy/colour", "other"], ["shapes_accuracy/colour"]]  # fmt: skip
    assert [group[0].seed for group in groups] == [0, 1]


@pytest.mark.parametrize("name", ["shapes_32", "coco_256"])
def test_the_experiment_a_run_came_from_is_found(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    assert report.nearest_base(get_config().to_dict()) == {
        "name": f"configs/{name}.py", "differences": []}  # fmt: skip
    config = get_config("s_w")
    config.batch_size = 3
    del config.model.z_dim
    found = report.nearest_base(config.to_dict())
    assert found["name"] == f"configs/{name}.py:s_w"
    before = get_config()
    changed = [("batch_size", 3, before.batch_size), ("model.z_dim", "absent", before.model.z_dim)]
    assert found["differences"] == changed
    assert report.nearest_base({"of": "something else"}) is None


def test_facts():
    records = [{"kind": "train", "step": s, "steps_per_second": s / 10} for s in (10, 20, 30)]
    config = {"num_steps": 50, "batch_size": 4, "d_steps": 2}
    assert report.facts(config, records) == {
        "step": "30 of 50", "real images seen": "240",
        "typical rate": "2 steps/s, 16 images/s"}  # fmt: skip
    assert report.facts(config, []) == {}


def test_the_page_is_used_by_keyboard_and_by_mouse(browser, tmp_path):
    """In a real browser: the pixels on the screen are those of the step and caption chosen."""
    steps = (3, 4, 5)
    make_run(tmp_path, steps=steps)  # The step divides their brightness by 1, 2 or 3.
    path = report.write_report(tmp_path)
    page = browser.open(path)

    def colour(locator) -> tuple:
        return browser.colour_of(locator)

    def expected(caption, step) -> tuple:
        return tuple(value // (1 + step % 3) for value in COLOURS[caption])

    tiles, strip = page.locator("#tiles .tile"), page.locator("#strip .tile")
    assert [colour(tiles.nth(i)) for i in range(3)] == [expected(i, 5) for i in range(3)]
    assert [colour(strip.nth(k)) for k in range(3)] == [expected(0, step) for step in steps]
    page.keyboard.press("ArrowLeft")
    assert page.locator("#shown").inner_text() == "step 4"
    assert [colour(tiles.nth(i)) for i in range(3)] == [expected(i, 4) for i in range(3)]
    page.locator("#step").focus()
    page.keyboard.press("Home")
    assert [colour(tiles.nth(i)) for i in range(3)] == [expected(i, 3) for i in range(3)]

    tiles.nth(1).click()
    assert [colour(strip.nth(k)) for k in range(3)] == [expected(1, step) for step in steps]
    page.locator("#caption").select_option(CAPTIONS[2])
    assert [colour(strip.nth(k)) for k in range(3)] == [expected(2, step) for step in steps]
    assert tiles.nth(2).get_attribute("aria-pressed") == "true"
    browser.assert_fits(page)
