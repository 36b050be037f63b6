"""The verb `report`: one self-contained page about a run, ``workdir/report.html``.

    python -m xmc_jax.report --workdir=runs/shapes_32

The page needs no network: curves are inline SVG, pictures are inline bytes.
"""

import base64
import collections
import datetime
import io
import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from absl import flags
from etils import epath

from xmc_jax import cli, workdir
from xmc_jax.errors import UserError

PACKAGES = ("xmc-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "keras", "keras-hub")

GRID_PADDING = 2  # Pixels around the pictures of a grid, see `images.make_grid`.
MAX_GRIDS = 20  # Sample grids on the slider, evenly over the run.
MAX_GRID_BYTES = 150_000  # A larger one is embedded as WebP, at most this many pixels wide:
MAX_GRID_WIDTH = 1600
MAX_POINTS = 200  # Points of a curve; more training steps than that are averaged in blocks.

# Legible on white and on black.
COLOURS = ("#3f88c5", "#e07a1f", "#2a9d70", "#c8507a", "#8a6fd1", "#9a8a1f", "#5f9ea0", "#b5651d")
# Matplotlib cannot write CSS' currentColor, with which text follows the page's theme: this stands
# for it until the figure is text.
INK = "#012345"

Record = Mapping[str, Any]


def write_report(path: epath.PathLike) -> epath.Path:
    """Writes the report of a run from what is in its workdir, however far it has got.

    Returns:
      Where the report is.

    Raises:
      UserError: if there is no run in that folder, or nothing can be written to it.
    """
    import jinja2

    config = workdir.read_config(path).to_dict()
    records = workdir.read_metrics(path)
    train = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if _is_evaluation(record)]

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xmc_jax", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["breakable"] = _breakable
    html = environment.get_template("report.html.jinja").render(
        workdir=str(path),
        name=epath.Path(path).name,
        date=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        last_step=max((record["step"] for record in records), default=None),
        samples=sample_grids(path, resolution=config["model"]["resolution"]),
        curves=training_curves(train),
        metrics=latest_evaluations(evaluations),
        metric_curves=evaluation_curves(evaluations),
        config=config_tables(config),
        versions=installed_versions(),
    )
    workdir.ensure_writable(path)
    report = workdir.report_path(path)
    workdir.write_whole(report, html.encode())
    return report


def _is_evaluation(record: Record) -> bool:
    """Whether a record has what the tables and curves of evaluations need."""
    texts, numbers = ("metric", "protocol"), ("value", "floor", "ceiling", "num_samples")
    return (
        record["kind"] == "eval"
        and all(isinstance(record.get(name), str) for name in texts)
        and {"value", "weights", "num_samples", "seed"} <= record.keys()
        and isinstance(record["weights"], str | None)
        and all(isinstance(record.get(name), int | float | None) for name in numbers)
    )


def format_number(value: Any) -> str:
    """Four significant digits; whole numbers in full, thousands apart; None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"


def _breakable(name: str):
    """Lets a line break after the separators of a metric's name."""
    import markupsafe

    return markupsafe.Markup(re.sub(r"([/_])", r"\1<wbr>", str(markupsafe.escape(name))))


def config_tables(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The config by section; fields outside any section come first, under an empty title."""
    loose = {name: x for name, x in config.items() if not isinstance(x, Mapping)}
    sections = {name: dict(x) for name, x in config.items() if isinstance(x, Mapping)}
    return ({"": loose} if loose else {}) | sections


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a number, where the report is made."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def latest_evaluations(records: Sequence[Record]) -> list[Record]:
    """The newest number of every metric under every protocol and set of weights.

    A metric of a later checkpoint replaces that of an earlier one; of one checkpoint's numbers the
    last written counts.
    """
    latest: dict[tuple, Record] = {}
    for record in records:
        key = (record["metric"], record["protocol"], record["weights"])
        if key not in latest or record["step"] >= latest[key]["step"]:
            latest[key] = {"floor": None, "ceiling": None} | record
    return [latest[key] for key in sorted(latest, key=str)]


# Pictures


def sample_grids(path: epath.PathLike, *, resolution: int) -> dict[str, Any] | None:
    """The sample grids over the run, and where in a grid each caption's picture is.

    Args:
      path: The workdir.
      resolution: Pixels of a picture's side, before the grid was enlarged.

    Returns:
      ``grids``: step and data URI of up to `MAX_GRIDS` of them, the first and the last among them;
      ``tiles``: caption, and its place as the CSS background properties of one tile;
      ``pixelated``: whether tiles are so small that their pixels should show. None: no samples.
    """
    files = sorted(workdir.samples_dir(path).glob("step_*.png"))
    if not files:
        return None
    if len(files) > MAX_GRIDS:
        last = len(files) - 1
        files = [files[round(i * last / (MAX_GRIDS - 1))] for i in range(MAX_GRIDS)]
    grids = [
        {"step": int(re.search(r"step_(\d+)", file.name)[1]), "uri": _picture_uri(file)}
        for file in files
    ]
    tiles = _tiles(workdir.captions_path(path), files[-1], resolution)
    return {"grids": grids, "tiles": tiles, "pixelated": resolution < 128}


def _tiles(captions_path: epath.Path, grid: epath.Path, side: int) -> list[dict[str, str]]:
    from PIL import Image

    try:
        layout = json.loads(captions_path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{captions_path} is missing or damaged, which tells what the sample grids show; "
            "move the samples away to have a report without them"
        ) from error
    columns = layout["columns"]
    with Image.open(io.BytesIO(grid.read_bytes())) as image:
        enlarged_width, enlarged_height = image.size
    # Lengths from here on are pixels of the pictures as they were drawn.
    gap = GRID_PADDING
    width = columns * (side + gap) + gap
    height = enlarged_height * width / enlarged_width
    tiles = []
    for index, caption in enumerate(layout["captions"]):
        left = gap + index % columns * (side + gap)
        top = gap + index // columns * (side + gap)
        # CSS counts a background's place in the room that is left beside the tile.
        x, y = (100 * at / max(room - side, 1) for at, room in ((left, width), (top, height)))
        style = (
            f"background-size: {100 * width / side:.4f}% {100 * height / side:.4f}%; "
            f"background-position: {x:.4f}% {y:.4f}%"
        )
        tiles.append({"caption": caption, "style": style})
    return tiles


def _picture_uri(file: epath.Path) -> str:
    from PIL import Image

    data, kind = file.read_bytes(), "png"
    if len(data) > MAX_GRID_BYTES:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((MAX_GRID_WIDTH, 100 * MAX_GRID_WIDTH))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=88)
        data, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# Curves


def training_curves(records: Sequence[Record]) -> list[dict[str, str]]:
    """One figure for each group of training metrics: ``title`` and ``svg``."""
    series = collections.defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                series[name].append((record["step"], float(value)))
    groups = collections.defaultdict(dict)
    for name, points in series.items():
        groups[_group(name)][name] = points
    return [
        {"title": title, "svg": _figure(title, lines)} for title, lines in sorted(groups.items())
    ]


def _group(name: str) -> str:
    player = {"d": "Discriminator", "g": "Generator"}.get(name.split("/")[0])
    if player is None:
        return name
    if name.endswith("_accuracy"):
        return f"{player}: retrieval accuracy within the batch"
    if name.endswith("_norm"):
        return f"{player}: norm of the gradient"
    if name.endswith("_logit"):
        return f"{player}: logits"
    return f"{player}: losses"


def evaluation_curves(records: Sequence[Record]) -> list[dict[str, str]]:
    """One figure for each metric that was measured at two steps or more."""
    series: dict[tuple, dict] = collections.defaultdict(dict)
    bounds: dict[tuple, dict] = {}
    for record in records:
        if record["value"] is not None:
            key = (record["metric"], record["protocol"], record["weights"])
            series[key][record["step"]] = float(record["value"])
            bounds[key] = {name: record.get(name) for name in ("floor", "ceiling")}
    return [
        {
            "title": key[0],
            "svg": _figure(key[0], {key[0]: sorted(points.items())}, bounds=bounds[key]),
        }
        for key, points in sorted(series.items(), key=str)
        if len(points) > 1
    ]


def _figure(
    title: str,
    lines: Mapping[str, Sequence[tuple[int, float]]],
    *,
    bounds: Mapping[str, float | None] | None = None,
) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style = ink | {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for colour, (name, points) in zip(_cycle(len(lines)), lines.items(), strict=True):
            steps, means, lows, highs = _blocks(points)
            mark = "o" if len(steps) == 1 or bounds is not None else None
            label = name.removeprefix("d/").removeprefix("g/").removesuffix("_accuracy")
            axes.plot(steps, means, color=colour, linewidth=1.6, marker=mark, markersize=3.5,
                      label=label)  # fmt: skip
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
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left",
                        bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=1.2)  # fmt: skip
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline_svg(buffer.getvalue(), title)


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _blocks(points: Sequence[tuple[int, float]]) -> tuple[list, list, list, list]:
    """Steps, means, minima and maxima of up to `MAX_POINTS` runs of neighbouring points."""
    size = -(-len(points) // MAX_POINTS)
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    values = [[value for _, value in block] for block in blocks]
    return (
        [block[-1][0] for block in blocks],
        [sum(v) / len(v) for v in values],
        [min(v) for v in values],
        [max(v) for v in values],
    )


def _inline_svg(text: str, title: str) -> str:
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


def main() -> None:
    """Writes the report of ``--workdir`` and says where it is."""
    path = flags.FLAGS.workdir
    if not path:
        raise UserError("--workdir is missing: give the folder of a run")
    print(f"wrote {write_report(path)}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run; report.html is written into it.")
    cli.run(main)
