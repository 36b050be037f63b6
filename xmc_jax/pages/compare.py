"""The pages that compare runs: metrics, images of the same captions, configs and curves."""

import collections
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from xmc_jax import files, images
from xmc_jax.errors import UserError, reason
from xmc_jax.pages import curves, render
from xmc_jax.run.config import flatten, read_config
from xmc_jax.run.folder import captions_path
from xmc_jax.run.records import MetricRecord, evaluations, latest_evaluations, read_metrics

MAX_GRID_CAPTIONS = 16  # Captions taken from a run's sample grids.


class Run(NamedTuple):
    """A run to compare.

    Attributes:
      name: A short name that no other run of the comparison has.
      path: Its folder, as it was named.
      folder: Its folder on this machine or in a bucket.
      config: Its config, flattened.
      records: The records of its ``metrics.jsonl``.
    """

    name: str
    path: str
    folder: epath.PathLike
    config: dict[str, Any]
    records: list[dict[str, Any]]


class GeneratedImages(NamedTuple):
    """Images of the same captions by every run.

    Attributes:
      captions: The captions.
      seed: Seed of the noise.
      steps: The checkpoint of each run.
      pngs: PNG files, ``pngs[run][caption]``.
    """

    captions: list[str]
    seed: int
    steps: list[int]
    pngs: list[list[bytes]]


def read_runs(paths: Sequence[str], folders: Sequence[epath.PathLike] | None = None) -> list[Run]:
    """Reads runs; each is named by the shortest end of its path that no other run shares.

    Args:
      paths: How they are named.
      folders: Where they are, if not there: of addresses ``hf://…``.

    Raises:
      UserError: a run is named twice, or a folder holds none.
    """
    parts = [
        (epath.Path(path) if files.is_remote(path) else Path(path).absolute()).parts
        for path in paths
    ]
    if len(set(parts)) < len(parts):
        raise UserError(f"a run is named twice: {', '.join(map(str, paths))}; name each once")
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    runs = []
    for path, folder, own in zip(paths, folders or paths, parts, strict=True):
        config = flatten(read_config(folder).to_dict())
        runs.append(Run("/".join(own[-length:]), path, folder, config, read_metrics(folder)))
    return runs


def grid_captions(run: Run) -> list[str]:
    """The first captions of a run's sample grids; none if it has no grids.

    Raises UserError if the file of captions is damaged.
    """
    path = captions_path(run.folder)
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text())["captions"][:MAX_GRID_CAPTIONS]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}); give captions yourself") from error


def write_comparison(
    runs: Sequence[Run], out: epath.PathLike, generated: GeneratedImages | None = None
) -> list[epath.Path]:
    """Writes the comparison of runs to a folder, as an HTML page and as Markdown.

    Returns:
      The paths of the two documents.

    Raises:
      UserError: the folder cannot be written.
    """
    out = epath.Path(out)
    content = {
        "runs": runs,
        "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "metrics": metric_tables(runs),
        "differences": config_differences(runs),
        "generated": generated,
    }
    pngs = generated.pngs if generated else []
    html = render.render(
        "compare.html.jinja",
        **content,
        pixelated=any(run.config.get("model.resolution", 128) < 128 for run in runs),
        uris=[[render.image_uri(png) for png in row] for row in pngs],
        metric_curves=curves.plot_metrics({run.name: evaluations(run.records) for run in runs}),
        training_curves=training_curves(runs),
    )
    markdown = render.render("compare.md.jinja", **content)
    written = [out / "compare.html", out / "compare.md"]
    for path, text in zip(written, (html, markdown), strict=True):
        files.write_whole(path, text.encode())
    for run, row in enumerate(pngs):
        for caption, png in enumerate(row):
            # The names are also in compare.md.jinja.
            files.write_whole(out / "pictures" / f"{caption:04d}_{run}.png", _enlarge(png))
    return written


def metric_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Latest evaluations of the runs, one table for each protocol.

    Returns:
      For each protocol: ``protocol``, ``weights`` and ``rows``, one for each metric, of ``metric``,
      ``better`` ("higher", "lower" or None), ``cells`` (for each run its `MetricRecord` or None)
      and ``best``, the best value if more than one run has a value, otherwise None.
    """
    tables = collections.defaultdict(lambda: collections.defaultdict(dict))
    for index, run in enumerate(runs):
        for record in latest_evaluations(run.records):
            tables[record.protocol, record.weights][record.metric][index] = record
    return [
        {
            "protocol": protocol,
            "weights": weights,
            "rows": [_metric_row(metric, cells, len(runs)) for metric, cells in table.items()],
        }
        for (protocol, weights), table in sorted(tables.items(), key=str)
    ]


def _metric_row(metric: str, cells: Mapping[int, MetricRecord], num_runs: int) -> dict[str, Any]:
    better = next((cell.better for cell in cells.values() if cell.better), None)
    values = [cell.value for cell in cells.values() if cell.value is not None]
    choose = max if better == "higher" else min
    best = choose(values) if better and len(values) > 1 else None
    row = [cells.get(index) for index in range(num_runs)]
    return {"metric": metric, "better": better, "cells": row, "best": best}


def config_differences(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """The fields in which the configs differ, each with the value of every run."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    values = {field: [run.config.get(field, "absent") for run in runs] for field in fields}
    return [(field, found) for field, found in values.items() if any(x != found[0] for x in found)]


def training_curves(runs: Sequence[Run]) -> list[curves.Curves]:
    """One figure for each training metric that two runs or more have."""
    lines = collections.defaultdict(dict)
    for run in runs:
        for name, points in curves.training_series(run.records).items():
            lines[name][run.name] = points
    return [curves.plot(name, by_run) for name, by_run in sorted(lines.items()) if len(by_run) > 1]


def _enlarge(png: bytes) -> bytes:
    """Enlarges a small image to about 128 pixels for Markdown, which cannot scale it."""
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    return images.encode_png(images.enlarge(pixels, max(1, 128 // len(pixels))))
