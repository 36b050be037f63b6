"""Curves over training steps as inline SVG that follows the page's light or dark theme."""

import collections
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from xmc_jax.run.records import TRAINING_KINDS, MetricRecord

MAX_POINTS = 200  # Points of a curve; more of them are averaged in blocks.

# Legible on white and on black.
COLOURS = ("#3f88c5", "#e07a1f", "#2a9d70", "#c8507a", "#8a6fd1", "#9a8a1f", "#5f9ea0", "#b5651d")
# Matplotlib cannot write the CSS colour currentColor, by which text follows the page's theme. This
# colour takes its place until the figure is text.
INK = "#012345"

Points = Sequence[tuple[int, float]]  # (step, value)


class Curves(NamedTuple):
    """A figure of a page: what it shows, and the figure as an element of the page."""

    title: str
    svg: markupsafe.Markup


def training_series(records: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The points of every training metric; steps without a finite value are left out."""
    series = collections.defaultdict(list)
    for record in records:
        for name, value in record.items() if record["kind"] in TRAINING_KINDS else ():
            if name != "step" and isinstance(value, int | float):
                series[name].append((record["step"], float(value)))
    return series


def plot_metrics(evaluations: Mapping[str, Iterable[MetricRecord]]) -> list[Curves]:
    """One figure for each metric that some run has at two steps or more.

    Args:
      evaluations: Records by the run's name. A single run gets lines for floor and ceiling.
    """
    lines = collections.defaultdict(lambda: collections.defaultdict(dict))
    bounds = {}
    for name, records in evaluations.items():
        for record in records:
            if record.value is not None:
                lines[record.key][name][record.step] = record.value
                bounds[record.key] = {"floor": record.floor, "ceiling": record.ceiling}
    return [
        plot(
            key[0],
            {name: sorted(points.items()) for name, points in by_run.items()},
            marked=True,
            bounds=bounds[key] if len(evaluations) == 1 else None,
        )
        for key, by_run in sorted(lines.items())
        if max(map(len, by_run.values())) > 1
    ]


def plot(
    title: str,
    lines: Mapping[str, Points],
    *,
    marked: bool = False,
    bounds: Mapping[str, float | None] | None = None,
    unit: str = "",
) -> Curves:
    """Plots one or more curves over training steps.

    Args:
      title: What the figure shows; also its label for screen readers.
      lines: Points of each curve by its name in the legend.
      marked: Whether to mark each point, for curves of few points.
      bounds: Values of horizontal lines by name; None is left out.
      unit: Unit of the values, for the axis.
    """
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style = ink | {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for index, (name, points) in enumerate(lines.items()):
            colour = COLOURS[index % len(COLOURS)]
            steps, means, lows, highs = blocks(points)
            mark = "o" if len(steps) == 1 or marked else None
            axes.plot(steps, means, color=colour, linewidth=1.6, marker=mark, markersize=3.5,
                      label=name)  # fmt: skip
            if lows != highs:
                axes.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)
        for name, value in (bounds or {}).items():
            if value is not None:
                axes.axhline(value, color=INK, alpha=0.55, linewidth=1, linestyle="--")
                axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right",
                              va="bottom", fontsize=8, alpha=0.75)  # fmt: skip
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color=INK, alpha=0.4)
        axes.grid(color=INK, alpha=0.12, linewidth=0.7)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left",
                        bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=1.2)  # fmt: skip
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Curves(title, _inline_svg(buffer.getvalue(), title))


def blocks(points: Points) -> tuple[list, list, list, list]:
    """Divides points into at most `MAX_POINTS` blocks of neighbours.

    Returns:
      The last step of each block, and the mean, the minimum and the maximum of its values.
    """
    size = -(-len(points) // MAX_POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    values = [[value for _, value in part] for part in parts]
    return (
        [part[-1][0] for part in parts],
        [sum(v) / len(v) for v in values],
        [min(v) for v in values],
        [max(v) for v in values],
    )


def _inline_svg(text: str, title: str) -> markupsafe.Markup:
    """Makes a figure an element of a page: no XML header, no fixed size, no ids that clash."""
    svg = text[text.index("<svg") :].replace(INK, "currentColor")
    # Matplotlib gives every element an id. Only markers and clip paths, which are named by their
    # content, are referred to.
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = markupsafe.escape(f"Curve: {title}")
    svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)
    return markupsafe.Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
