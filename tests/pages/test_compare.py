"""Comparisons: which values are compared, which is the best, and pages in a browser."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import small_run
from tests.page import CAPTIONS, Page, assert_needs_no_network, evaluation, make_run, train_records
from tests.verbs import assert_refused
from xmc_jax.errors import UserError
from xmc_jax.inference.compare import generate_for_runs
from xmc_jax.pages import compare
from xmc_jax.run.folder import captions_path

CONFIG = {"seed": 0, "model": {"resolution": 16, "z_dim": 4}, "loss": {"word_weight": 1.0}}


def interval(step, value, low, high, **fields):
    return evaluation(step, value, low=low, high=high, better="higher", **fields)


@pytest.fixture
def two_runs(tmp_path):
    """A run with everything and one without the word term, that began later."""
    distance = {"metric": "fd_vgg16", "protocol": "pool5", "weights": "ab" * 32}
    one = [
        *train_records(10),
        interval(50, 0.4, 0.35, 0.45),
        interval(100, 0.8, 0.75, 0.85),
        evaluation(100, 31.5, better="lower", **distance),
    ]
    other = [
        {"kind": "train", "step": 10, "d/hinge": 1.0},
        interval(100, 0.6, 0.55, 0.65),
        evaluation(100, 22.25, better="lower", **distance),
        interval(100, 0.5, 0.4, 0.6, protocol="test, ema"),
    ]
    paths = [tmp_path / "a" / "run_all", tmp_path / "a" / "no|word"]
    make_run(paths[0], records=one, config=CONFIG)
    make_run(paths[1], records=other, config=CONFIG | {"loss": {}, "extra": "<b>"})
    return [str(path) for path in paths]


def test_metrics_stand_beside_each_other_by_protocol(two_runs):
    tables = compare.metric_tables(compare.read_runs(two_runs))
    by_protocol = {table["protocol"]: table["rows"] for table in tables}
    assert list(by_protocol) == ["pool5", "test, ema", "val, ema"]
    (colour,) = by_protocol["val, ema"]
    assert [(cell.value, cell.low) for cell in colour["cells"]] == [(0.8, 0.75), (0.6, 0.55)]
    assert colour["best"] == 0.8
    (distance,) = by_protocol["pool5"]
    assert distance["best"] == 22.25  # The lower one.
    (alone,) = by_protocol["test, ema"]
    assert alone["cells"][0] is None and alone["cells"][1] and alone["best"] is None


def test_config_differences(two_runs):
    runs = compare.read_runs(two_runs)
    assert [run.name for run in runs] == ["run_all", "no|word"]
    assert compare.config_differences(runs) == [
        ("loss.word_weight", [1.0, "absent"]), ("extra", ["absent", "<b>"])]  # fmt: skip
    assert compare.config_differences(runs[:1]) == []


def test_names_are_as_short_as_they_can_be(tmp_path):
    paths = [str(tmp_path / x / "run") for x in "xy"]
    for path in paths:
        make_run(path)
    assert [run.name for run in compare.read_runs(paths)] == ["x/run", "y/run"]
    with pytest.raises(UserError, match="named twice"):
        compare.read_runs([paths[0], paths[0]])


def test_the_page_and_the_document(two_runs, tmp_path, run_verb):
    """By the verb, from what is written, without checkpoints."""
    out = tmp_path / "out"
    done = run_verb("compare", *two_runs, f"--out={out}", "--nopictures")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["compare.html", "compare.md"]
    source = (out / "compare.html").read_text(encoding="utf-8")
    assert_needs_no_network(source)
    assert "<b>" not in source
    text = " ".join("".join(Page(source).text).split())
    for expected in ("run_all · no|word", "0.75 to 0.85", "lower is better", "22.25", "<b>",
                     "weights abababababab", "loss.word_weight", "No images"):  # fmt: skip
        assert expected in text
    assert source.count("<svg") == 2  # Colour, seen twice by one run; one number of training.

    lines = (out / "compare.md").read_text(encoding="utf-8").splitlines()
    assert "| `shapes_accuracy/colour` | **0.8** [0.75, 0.85] | 0.6 [0.55, 0.65] |" in lines
    assert "| `fd_vgg16` | 31.5 | **22.25** |" in lines
    assert r"| metric | run\_all | no\|word |" in lines
    assert "| `extra` | absent | &lt;b> |" in lines
    for start in (i for i, line in enumerate(lines) if line.startswith("| ---")):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in lines[start - 1 : start + 2]}
        assert columns == {4}


@pytest.fixture(scope="module")
def pages(folder):
    """Of a run and its copy, which generate equal images."""
    one = small_run.make(folder)
    shutil.copytree(one, folder / "copy")
    runs = compare.read_runs([str(one), str(folder / "copy")])
    generated = generate_for_runs(runs, ["a red <circle>", "a blue square"])
    return compare.write_comparison(runs, folder / "out", generated)


def test_images_of_the_same_captions(pages):
    html, markdown = pages
    files = sorted((html.parent / "pictures").iterdir())
    assert [path.name for path in files] == ["0000_0.png", "0000_1.png", "0001_0.png", "0001_1.png"]
    images = [np.asarray(Image.open(path)) for path in files]
    assert images[0].shape == (128, 128, 3)
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()
    lines = markdown.read_text().splitlines()
    assert "| caption | run, step 3 | copy, step 3 |" in lines
    assert r"| a red &lt;circle> | ![](pictures/0000_0.png) | ![](pictures/0000_1.png) |" in lines
    assert r"| a blue square | ![](pictures/0001_0.png) | ![](pictures/0001_1.png) |" in lines


def test_the_page_shows_them(browser, pages):
    page = browser.open(pages[0])
    shown = page.locator(".generated img")
    assert shown.count() == 4
    assert all(page.evaluate("[...document.images].map(image => image.naturalWidth === 32)"))
    assert shown.nth(0).get_attribute("alt") == "a red <circle>, generated by run"
    browser.assert_fits(page)


def test_captions_of_the_sample_grids(tmp_path):
    for name in "ab":
        make_run(tmp_path / name, steps=[1] if name == "a" else [])
    with_grid, without = compare.read_runs([str(tmp_path / name) for name in "ab"])
    assert compare.grid_captions(with_grid) == CAPTIONS
    assert compare.grid_captions(without) == []
    captions_path(tmp_path / "a").write_text('{"captions": ["a')
    with pytest.raises(UserError, match="captions.json is damaged .*; give captions yourself"):
        compare.grid_captions(with_grid)


def test_mistakes_are_one_line(two_runs, tmp_path, run_verb):
    assert_refused(run_verb("compare", two_runs[0], "--out=x"), "two runs or more")
    assert_refused(run_verb("compare", *two_runs), "--out is missing")
    nowhere = run_verb("compare", two_runs[0], "/nowhere", f"--out={tmp_path / 'out'}")
    assert_refused(nowhere, "no run in /nowhere")
    assert not (tmp_path / "out").exists()
