"""Numbers over training steps as figures for a page: inline SVG that follows the page's theme."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_POINTS = 200  # Points of a curve; more of them are averaged in blocks.

# Legible on white and on black.
COLOURS = ("#3f88c5", "#e07a1f", "#2a9d70", "#c8507a", "#8a6fd1", "#9a8a1f", "#5f9ea0", "#b5651d")
# Matplotlib cannot write CSS' currentColor, with which text follows the page's theme: this stands
# for it until the figure is text.
INK = "#012345"

Points = Sequence[tuple[int, float]]  # (step, value)


def draw(
    title: str,
    lines: Mapping[str, Points],
    *,
    marked: bool = False,
    bounds: Mapping[str, float | None] | None = None,
    unit: str = "",
) -> Any:
    """A figure of one or more curves, as markup.

    Args:
      title: What it shows, for those who cannot see it.
      lines: Points of each curve by its name in the legend.
      marked: Whether points get marks: few of them, measured one by one.
      bounds: Horizontal lines by name.
      unit: Of the values, for the axis.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

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
    return _inline_svg(buffer.getvalue(), title)


def blocks(points: Points) -> tuple[list, list, list, list]:
    """Steps, means, minima and maxima of up to `MAX_POINTS` runs of neighbouring points."""
    size = -(-len(points) // MAX_POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    values = [[value for _, value in part] for part in parts]
    return (
        [part[-1][0] for part in parts],
        [sum(v) / len(v) for v in values],
        [min(v) for v in values],
        [max(v) for v in values],
    )


def _inline_svg(text: str, title: str) -> Any:
    """The figure as an element of a page: no XML header, no fixed size, ids that do not clash."""
    import markupsafe

    svg = text[text.index("<svg") :].replace(INK, "currentColor")
    # Matplotlib names every element; only markers and clip paths, named by content, are used.
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = markupsafe.escape(f"Curve: {title}")
    svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)
    return markupsafe.Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
