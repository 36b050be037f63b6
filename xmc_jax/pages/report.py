"""The page about one run: its progress, samples, metrics, curves and config."""

import collections
import datetime
import importlib
import io
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from xmc_jax import configs, files
from xmc_jax.configs import ablations
from xmc_jax.errors import UserError
from xmc_jax.pages import curves, render
from xmc_jax.run.config import flatten, read_config
from xmc_jax.run.folder import captions_path, report_path, samples_dir
from xmc_jax.run.records import MetricRecord, evaluations, latest_evaluations, read_metrics

MAX_GRIDS = 20  # Sample grids on the slider, evenly spaced over the run.

Record = Mapping[str, Any]
Config = Mapping[str, Any]  # A run's config; older versions may have written fewer fields.


def write_report(path: epath.PathLike) -> epath.Path:
    """Writes the report of a run from the files in its workdir; the run need not be finished.

    Returns:
      The path of the report.

    Raises:
      UserError: the folder holds no run or cannot be written.
    """
    config = read_config(path).to_dict()
    records = read_metrics(path)
    name = epath.Path(path).name or Path.cwd().name  # Of "."; a bucket has a name.
    html = render.render(
        "report.html.jinja",
        workdir=str(path),
        name=name,
        date=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        facts=facts(config, records),
        samples=sample_grids(path, resolution=config["model"]["resolution"]),
        curves=training_curves(records, config),
        metrics=by_protocol(latest_evaluations(records)),
        metric_curves=curves.plot_metrics({name: evaluations(records)}),
        base=nearest_base(config),
        config=config,
        starts=[record for record in records if record["kind"] == "start"],
    )
    report = report_path(path)
    files.write_whole(report, html.encode())
    return report


def facts(config: Config, records: Iterable[Record]) -> dict[str, str]:
    """A run's progress and speed as text by name; empty if no training step is recorded."""
    train = [record for record in records if record["kind"] == "train"]
    if not train:
        return {}
    step, number = train[-1]["step"], render.format_number
    found = {"step": number(step)}
    if "num_steps" in config:
        found["step"] += f" of {number(config['num_steps'])}"
    if images := _images_per_step(config):
        found["real images seen"] = number(step * images)
    if rates := sorted(r["steps_per_second"] for r in train if r.get("steps_per_second")):
        median = rates[len(rates) // 2]
        found["typical rate"] = f"{number(median)} steps/s"
        if images:
            found["typical rate"] += f", {number(median * images)} images/s"
    return found


def _images_per_step(config: Config) -> int:
    return config.get("batch_size", 0) * config.get("d_steps", 0)


def by_protocol(records: Iterable[MetricRecord]) -> list[list[MetricRecord]]:
    """Groups evaluations that share protocol, number of samples, seed and weights."""
    groups = collections.defaultdict(list)
    for record in records:
        groups[record.protocol, record.num_samples, record.seed, record.weights].append(record)
    return list(groups.values())


def nearest_base(config: Config) -> dict[str, Any] | None:
    """Finds the experiment in ``configs/``, or its ablation row, that a config differs least from.

    Returns:
      ``name``, such as ``configs/coco_256.py:s_w``, and ``differences``, a tuple ``(field, value in
      this config, value there)`` for each field that differs or exists on one side only. None if no
      experiment has any of the fields.
    """
    here = flatten(config)
    found = []
    for name, there in _bases():
        if here.keys() & there.keys():
            rows = [(f, here.get(f, "absent"), there.get(f, "absent")) for f in here | there]
            differences = [row for row in rows if row[1] != row[2]]
            found.append({"name": name, "differences": differences})
    # Of equally near ones, the experiment itself is preferred to its ablation rows.
    return min(found, key=lambda x: (len(x["differences"]), ":" in x["name"]), default=None)


def _bases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and flat fields of every experiment and of each of its ablation rows."""
    for module in pkgutil.iter_modules(configs.__path__):
        experiment = importlib.import_module(f"{configs.__name__}.{module.name}")
        get_config = getattr(experiment, "get_config", None)
        for row in ("", *ablations.TERMS, *ablations.OTHERS) if get_config else ():
            name = f"configs/{module.name}.py" + (f":{row}" if row else "")
            yield name, flatten(get_config(row).to_dict())


def sample_grids(path: epath.PathLike, *, resolution: int) -> dict[str, Any] | None:
    """The sample grids of a run, and the place of each caption's image in a grid.

    Args:
      path: The workdir.
      resolution: Pixels of an image's side, before the grid was enlarged.

    Returns:
      ``grids``: step and data URI of at most `MAX_GRIDS` grids, the first and the last included;
      ``tiles``: caption and CSS background properties of one image each; ``pixelated``: whether
      images are so small that their pixels should stay visible. None if there are no samples.
    """
    grids = sorted(samples_dir(path).glob("step_*.png"))
    if not grids:
        return None
    shown = np.linspace(0, len(grids) - 1, min(len(grids), MAX_GRIDS)).round().astype(int)
    grids = [grids[index] for index in shown]
    contents = [grid.read_bytes() for grid in grids]
    return {
        "grids": [
            {"step": int(re.search(r"step_(\d+)", grid.name)[1]), "uri": render.image_uri(png)}
            for grid, png in zip(grids, contents, strict=True)
        ],
        "tiles": _tiles(captions_path(path), contents[-1], resolution),
        "pixelated": resolution < 128,
    }


def _tiles(captions_path: epath.Path, grid: bytes, side: int) -> list[dict[str, str]]:
    try:
        layout = json.loads(captions_path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{captions_path} is missing or damaged; it names the captions of the sample grids. "
            "Move the samples away to get a report without them"
        ) from error
    columns = layout["columns"]
    with Image.open(io.BytesIO(grid)) as image:
        enlarged_width, enlarged_height = image.size
    # From here on, lengths are pixels of the images before they were enlarged.
    gap = 2  # The padding of `images.make_grid`.
    width = columns * (side + gap) + gap
    height = enlarged_height * width / enlarged_width
    tiles = []
    for index, caption in enumerate(layout["captions"]):
        left = gap + index % columns * (side + gap)
        top = gap + index // columns * (side + gap)
        # CSS measures a background's position as a share of the room that the tile leaves.
        x, y = (100 * at / max(room - side, 1) for at, room in ((left, width), (top, height)))
        style = (
            f"background-size: {100 * width / side:.4f}% {100 * height / side:.4f}%; "
            f"background-position: {x:.4f}% {y:.4f}%"
        )
        tiles.append({"caption": caption, "style": style})
    return tiles


THROUGHPUT = "Throughput"
_GROUPS = {  # By the last word of a metric's name.
    "accuracy": "retrieval accuracy within the batch",
    "norm": "norm of the gradient",
    "logit": "logits",
}


def training_curves(records: Iterable[Record], config: Config) -> list[curves.Curves]:
    """One figure for each group of training metrics, sorted by title.

    Throughput is in images if the config tells how many a step takes, and in steps otherwise.
    """
    images = _images_per_step(config)
    groups = collections.defaultdict(dict)
    for name, points in curves.training_series(records).items():
        label = name.rpartition("/")[2].removesuffix("_accuracy")
        title = _group(name)
        if title == THROUGHPUT and images:
            points = [(step, images * value) for step, value in points]
        groups[title][label] = points
    unit = "real images / s" if images else "steps / s"
    return [
        curves.plot(title, lines, unit=unit if title == THROUGHPUT else "")
        for title, lines in sorted(groups.items())
    ]


def _group(name: str) -> str:
    if match := re.fullmatch(r"probe/(\w+)/\w+", name):
        return f"Discriminator: swapped words, {match[1]} score"
    player = {"d": "Discriminator", "g": "Generator"}.get(name.split("/")[0])
    if player is None:
        return THROUGHPUT if name == "steps_per_second" else name
    return f"{player}: {_GROUPS.get(name.rpartition('_')[2], 'losses')}"
