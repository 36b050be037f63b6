"""Curves: averages of blocks, and figures that may appear several times on one page."""

import re

from xmc_jax.pages import curves


def test_blocks_keep_mean_and_extremes():
    points = [(step, float(step % 10)) for step in range(1, 10 * curves.MAX_POINTS + 1)]
    steps, means, lows, highs = curves.blocks(points)
    assert len(steps) == curves.MAX_POINTS and steps[-1] == points[-1][0]
    assert set(means) == {4.5} and set(lows) == {0.0} and set(highs) == {9.0}
    assert curves.blocks(points[:3]) == (
        [1, 2, 3],
        [1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0],
    )


def test_a_figure_follows_the_theme_and_names_its_content():
    points = [(1, 0.5), (2, 0.7)]
    lines = {"one": points, "two": points}
    svg = curves.plot("a < b", lines, bounds={"floor": 0.1}, unit="s").svg
    assert svg.startswith("<svg") and 'aria-label="Curve: a &lt; b"' in svg
    assert "currentColor" in svg and curves.INK not in svg
    assert not re.search(r'<svg[^>]* width="', svg)
    for text in ("one", "two", "floor", "step"):
        assert f">{text}</text>" in svg
    assert svg == curves.plot("a < b", lines, bounds={"floor": 0.1}, unit="s").svg
