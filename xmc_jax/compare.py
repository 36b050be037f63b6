"""Runs side by side: their metrics with intervals, the same captions drawn by each, their configs.

    python -m xmc_jax.compare runs/all runs/s_w --out=comparison
    python -m xmc_jax.compare runs/all runs/s_w --captions_file=captions.txt --out=comparison

Writes to --out: compare.html, one file that needs no network, and compare.md with its pictures/.
Without captions of your own, those of the first run's sample grids are drawn.
"""

import collections
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from xmc_jax import cli, files
from xmc_jax.console import waiting
from xmc_jax.errors import UserError
from xmc_jax.pages import curves, render
from xmc_jax.run.config import flatten, read_config
from xmc_jax.run.folder import captions_path
from xmc_jax.run.records import latest_evaluations, read_metrics

MAX_GRID_CAPTIONS = 16  # Of the first run's sample grids.
SHOWN_SIDE = 128  # Smaller pictures are enlarged to about this many pixels for Markdown.


class Run(NamedTuple):
    """A run as it is compared.

    Attributes:
      name: Short, and another than that of every other run.
      path: Its folder.
      config: Its fields, flat.
      records: Its lines of metrics.jsonl.
    """

    name: str
    path: str
    config: dict[str, Any]
    records: list[dict[str, Any]]


class Drawn(NamedTuple):
    """Captions as each run draws them.

    Attributes:
      captions: What was drawn.
      steps: The checkpoint of each run.
      pictures: PNG files: ``pictures[run][caption]``.
      side: Pixels of the smallest picture's side.
    """

    captions: list[str]
    steps: list[int]
    pictures: list[list[bytes]]
    side: int


def main(paths: list[str]) -> None:
    """Reads the flags, compares, and says where the pages are."""
    if len(paths) < 2:
        raise UserError("name the folders of two runs or more, e.g. `compare runs/one runs/other`")
    out, options = Path(cli.required("out")).expanduser(), flags.FLAGS
    captions = list(options.caption)
    if options.captions_file:
        captions += cli.read_captions_file("captions_file")
    if options.pictures:
        cli.set_up_jax()
    written = compare(paths, out, captions, seed=options.seed, pictures=options.pictures)
    print(f"wrote {' and '.join(map(str, written))}")


def compare(
    paths: Sequence[str],
    out: Path,
    captions: Sequence[str] = (),
    *,
    seed: int = 0,
    pictures: bool = True,
) -> list[Path]:
    """Writes the comparison of runs as a page and as Markdown.

    Args:
      paths: Folders of runs.
      out: Folder for the results; made if it is not there.
      captions: What to draw; those of the first run's sample grids if there are none.
      seed: Of the noise that pictures are drawn with, the same for all.
      pictures: Whether to draw at all.

    Returns:
      The two files.

    Raises:
      UserError: a folder has no run or no checkpoint, or nothing can be written.
    """
    runs = read_runs(paths)
    if pictures and not captions:
        captions = _grid_captions(runs[0])
    files.ensure_writable(out)
    content = {
        "runs": runs,
        "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "metrics": metric_tables(runs),
        "differences": config_differences(runs),
        "seed": seed,
    }
    drawn = draw(runs, list(captions), seed) if pictures and captions else None
    html, markdown = out / "compare.html", out / "compare.md"
    html.write_text(
        render.render(
            "compare.html.jinja",
            **content,
            drawn=drawn,
            uris=[[render.picture_uri(png) for png in row] for row in drawn.pictures]
            if drawn
            else [],
            metric_curves=metric_curves(runs),
            training_curves=training_curves(runs),
        ),
        encoding="utf-8",
    )
    markdown.write_text(format_markdown(**content, drawn=drawn), encoding="utf-8")
    if drawn:
        _write_pictures(out / "pictures", drawn)
    return [html, markdown]


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Configs and numbers of runs, each under the shortest end of its path that is its own."""
    parts = [Path(path).absolute().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError(f"a run is named twice: {', '.join(map(str, paths))}; name each once")
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    return [
        Run(
            "/".join(own[-length:]),
            str(path),
            flatten(read_config(path).to_dict()),
            read_metrics(path),
        )
        for path, own in zip(paths, parts, strict=True)
    ]


# Numbers


def metric_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Latest evaluations, together what was measured in one way.

    Returns:
      For each protocol: ``protocol``, ``weights`` and ``rows``, one a metric, of ``metric``,
      ``better`` ("higher", "lower" or None) and ``cells``, for each run its record or None; a
      record that is the best of several has ``best`` set.
    """
    tables: dict[tuple, dict[str, dict[int, Any]]] = {}
    for place, run in enumerate(runs):
        for record in latest_evaluations(run.records):
            table = tables.setdefault((record["protocol"], record.get("weights")), {})
            table.setdefault(record["metric"], {})[place] = {"low": None, "high": None} | record
    return [
        {
            "protocol": protocol,
            "weights": weights,
            "rows": [_metric_row(metric, cells, len(runs)) for metric, cells in table.items()],
        }
        for (protocol, weights), table in sorted(tables.items(), key=str)
    ]


def _metric_row(metric: str, cells: Mapping[int, Any], num_runs: int) -> dict[str, Any]:
    better = next((cell["better"] for cell in cells.values() if cell.get("better")), None)
    measured = [cell["value"] for cell in cells.values() if cell["value"] is not None]
    best = None
    if better and len(measured) > 1:
        best = max(measured) if better == "higher" else min(measured)
    row = [cells.get(place) for place in range(num_runs)]
    row = [cell and cell | {"best": best is not None and cell["value"] == best} for cell in row]
    return {"metric": metric, "better": better, "cells": row}


def config_differences(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """The fields in which the runs' configs are not all alike, and their values."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    values = {field: [run.config.get(field, "absent") for run in runs] for field in fields}
    return [(field, found) for field, found in values.items() if any(x != found[0] for x in found)]


def metric_curves(runs: Sequence[Run]) -> list[dict[str, str]]:
    """One figure for each metric that some run was measured by at two steps or more."""
    series: dict[tuple, dict[str, dict]] = collections.defaultdict(dict)
    for run in runs:
        for record in run.records:
            if record["kind"] == "eval" and record["value"] is not None:
                key = (record["metric"], record["protocol"], str(record.get("weights")))
                points = series[key].setdefault(run.name, {})
                points[record["step"]] = float(record["value"])
    return [
        _figure(metric, {name: sorted(points.items()) for name, points in lines.items()}, True)
        for (metric, *_), lines in sorted(series.items())
        if any(len(points) > 1 for points in lines.values())
    ]


def training_curves(runs: Sequence[Run]) -> list[dict[str, str]]:
    """One figure for each number of training that two runs or more have."""
    series: dict[str, dict[str, list]] = collections.defaultdict(dict)
    for run in runs:
        for record in run.records:
            for name, value in record.items() if record["kind"] == "train" else ():
                if name != "step" and isinstance(value, int | float):
                    series[name].setdefault(run.name, []).append((record["step"], float(value)))
    return [_figure(name, lines, False) for name, lines in sorted(series.items()) if len(lines) > 1]


def _figure(title: str, lines: Mapping[str, curves.Points], marked: bool) -> dict[str, str]:
    return {"title": title, "svg": curves.draw(title, lines, marked=marked)}


# Pictures


def _grid_captions(run: Run) -> list[str]:
    path = captions_path(run.path)
    if not path.exists():
        return []
    return json.loads(path.read_text())["captions"][:MAX_GRID_CAPTIONS]


def draw(runs: Sequence[Run], captions: list[str], seed: int) -> Drawn:
    """Draws captions with the newest checkpoint of each run, and the same noise.

    Raises:
      UserError: a run has no checkpoint.
    """
    from xmc_jax import images
    from xmc_jax.inference import model as trained

    steps, pictures, sides = [], [], []
    for run in runs:
        with waiting(f"drawing {len(captions)} captions with {run.name}"):
            model = trained.load(run.path)
            drawn = model.generate(captions, seed=seed)
        steps.append(model.step)
        sides.append(drawn.shape[1])
        pictures.append([images.encode_png(pixels) for pixels in drawn])
    return Drawn(captions, steps, pictures, min(sides))


def _write_pictures(folder: Path, drawn: Drawn) -> None:
    """The pictures that Markdown shows, large enough to be seen."""
    import numpy as np
    from PIL import Image

    from xmc_jax import images

    folder.mkdir(exist_ok=True)
    for run, row in enumerate(drawn.pictures):
        for caption, png in enumerate(row):
            pixels = np.asarray(Image.open(io.BytesIO(png)))
            larger = images.enlarge(pixels, max(1, SHOWN_SIDE // len(pixels)))
            (folder / _picture_name(caption, run)).write_bytes(images.encode_png(larger))


def _picture_name(caption: int, run: int) -> str:
    return f"{caption:04d}_{run}.png"


# Markdown


def format_markdown(
    *,
    runs: Sequence[Run],
    date: str,
    metrics: Sequence[Mapping[str, Any]],
    differences: Sequence[tuple[str, list[Any]]],
    drawn: Drawn | None,
    seed: int,
) -> str:
    """The comparison for a text document."""
    names = [run.name for run in runs]
    lines = [f"# {' · '.join(map(_cell, names))}", "", f"Compared on {date}.", ""]
    for table in metrics:
        weights = f", weights {table['weights'][:12]}" if table["weights"] else ""
        lines += [f"{_cell(table['protocol'])}{weights}:", "", *_table(["metric", *names], "l")]
        for row in table["rows"]:
            shown = [_value(cell) for cell in row["cells"]]
            lines.append(_row([f"`{row['metric']}`", *shown]))
        lines.append("")
    if metrics:
        lines += ["In brackets: 95 % intervals. Bold: the best of those measured.", ""]
    if differences:
        lines += ["## What their configs differ in", "", *_table(["field", *names], "l")]
        lines += [_row([f"`{field}`", *map(_cell, values)]) for field, values in differences]
        lines.append("")
    if drawn:
        heads = [f"{name}, step {step}" for name, step in zip(names, drawn.steps, strict=True)]
        lines += [f"## The same captions, seed {seed}", "", *_table(["caption", *heads], "c")]
        for index, caption in enumerate(drawn.captions):
            shown = [f"![](pictures/{_picture_name(index, run)})" for run in range(len(runs))]
            lines.append(_row([_cell(caption), *shown]))
        lines.append("")
    return "\n".join(lines)


def _value(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    number = render.format_number
    shown = f"**{number(cell['value'])}**" if cell["best"] else number(cell["value"])
    if cell["low"] is not None:
        shown += f" [{number(cell['low'])}, {number(cell['high'])}]"
    return shown


def _table(heads: Sequence[str], align: str) -> list[str]:
    rule = {"l": "---:", "c": ":---:"}[align]
    return [_row(map(_cell, heads)), _row(["---", *[rule] * (len(heads) - 1)])]


def _row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    """Text that neither ends a cell nor is taken for markup."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\|*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder for compare.html, compare.md and pictures/.")
    flags.DEFINE_multi_string("caption", [], "What to draw; may be given several times.")
    flags.DEFINE_string("captions_file", None, "Text file with a caption a line.")
    flags.DEFINE_integer("seed", 0, "Chooses the noise, the same for every run.")
    flags.DEFINE_bool("pictures", True, "Whether to draw; without, checkpoints are not needed.")
    cli.run(main, takes_arguments=True)
