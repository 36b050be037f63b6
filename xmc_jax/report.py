"""The verb `report`: one self-contained page about a run, ``workdir/report.html``.

    python -m xmc_jax.report --workdir=runs/shapes_32

The page needs no network: curves are inline SVG, pictures are inline bytes.
"""

import collections
import datetime
import importlib
import io
import json
import pkgutil
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from xmc_jax import cli, files
from xmc_jax.errors import UserError
from xmc_jax.pages import curves, render
from xmc_jax.run.config import flatten, read_config
from xmc_jax.run.folder import captions_path, report_path, samples_dir
from xmc_jax.run.records import is_evaluation, latest_evaluations, read_metrics

GRID_PADDING = 2  # Pixels around the pictures of a grid, see `images.make_grid`.
MAX_GRIDS = 20  # Sample grids on the slider, evenly over the run.

Record = Mapping[str, Any]


def write_report(path: epath.PathLike) -> epath.Path:
    """Writes the report of a run from what is in its workdir, however far it has got.

    Returns:
      Where the report is.

    Raises:
      UserError: if there is no run in that folder, or nothing can be written to it.
    """
    config = read_config(path).to_dict()
    records = read_metrics(path)
    of_kind = collections.defaultdict(list)
    for record in records:
        of_kind[record["kind"]].append(record)

    html = render.render(
        "report.html.jinja",
        workdir=str(path),
        name=epath.Path(path).name,
        date=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        facts=facts(config, records),
        samples=sample_grids(path, resolution=config["model"]["resolution"]),
        curves=training_curves(of_kind["train"], config),
        metrics=by_protocol(latest_evaluations(records)),
        metric_curves=evaluation_curves([r for r in records if is_evaluation(r)]),
        base=nearest_base(config),
        config=config_tables(config),
        starts=of_kind["start"],
    )
    files.ensure_writable(path)
    report = report_path(path)
    files.write_whole(report, html.encode())
    return report


def facts(config: Mapping[str, Any], records: Sequence[Record]) -> dict[str, str]:
    """The few numbers that tell how far a run is and how fast it went; none before its start."""
    train = [record for record in records if record["kind"] == "train"]
    if not train:
        return {}
    step, number = train[-1]["step"], render.format_number
    found = {"step": number(step)}
    if "num_steps" in config:
        found["step"] += f" of {number(config['num_steps'])}"
    images = _images_per_step(config)
    if images:
        found["real images seen"] = number(step * images)
    rates = sorted(r["steps_per_second"] for r in train if r.get("steps_per_second"))
    if rates:
        typical = rates[len(rates) // 2]
        found["typical rate"] = f"{number(typical)} steps/s"
        if images:
            found["typical rate"] += f", {number(typical * images)} images/s"
    return found


def _images_per_step(config: Mapping[str, Any]) -> int:
    return config.get("batch_size", 0) * config.get("d_steps", 0)


def by_protocol(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Evaluations measured in one way together: what they share, and their ``rows``."""
    groups = collections.defaultdict(list)
    for record in records:
        shared = ("protocol", "num_samples", "seed", "weights")
        groups[tuple((name, record[name]) for name in shared)].append(record)
    return [dict(shared) | {"rows": rows} for shared, rows in groups.items()]


# Config


def config_tables(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The config by section; fields outside any section come first, under an empty title."""
    loose = {name: x for name, x in config.items() if not isinstance(x, Mapping)}
    sections = {name: dict(x) for name, x in config.items() if isinstance(x, Mapping)}
    return ({"": loose} if loose else {}) | sections


def nearest_base(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The experiment in ``configs/``, or ablation row of one, that a config differs least from.

    Returns:
      ``name``, such as ``configs/coco_256.py:s_w``, and ``differences``: ``(field, here, there)``
      of each field that is another or is not there at all. None: no experiment has its fields.
    """
    here = flatten(config)
    found = []
    for name, base in _bases():
        there = flatten(base)
        if not here.keys() & there.keys():
            continue
        fields = [f for f in here | there if here.get(f, "absent") != there.get(f, "absent")]
        # Of equally near ones the plain experiment, without a row, comes first.
        found.append((len(fields), ":" in name, len(found), name, there, fields))
    if not found:
        return None
    *_, name, there, fields = min(found)
    rows = [(f, here.get(f, "absent"), there.get(f, "absent")) for f in fields]
    return {"name": name, "differences": rows}


def _bases():
    """Name and fields of each experiment and of each of its ablation rows."""
    import configs
    from configs import ablations

    for module in pkgutil.iter_modules(configs.__path__):
        get_config = getattr(importlib.import_module(f"configs.{module.name}"), "get_config", None)
        for row in ("", *ablations.TERMS, *ablations.OTHERS) if get_config else ():
            name = f"configs/{module.name}.py" + (f":{row}" if row else "")
            yield name, get_config(row).to_dict()


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
    files = sorted(samples_dir(path).glob("step_*.png"))
    if not files:
        return None
    if len(files) > MAX_GRIDS:
        last = len(files) - 1
        files = [files[round(i * last / (MAX_GRIDS - 1))] for i in range(MAX_GRIDS)]
    grids = [
        {
            "step": int(re.search(r"step_(\d+)", file.name)[1]),
            "uri": render.picture_uri(file.read_bytes()),
        }
        for file in files
    ]
    tiles = _tiles(captions_path(path), files[-1], resolution)
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


# Curves


def training_curves(
    records: Sequence[Record], config: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """One figure for each group of training metrics: ``title`` and ``svg``.

    Args:
      records: Of training.
      config: Of the run, which tells how many images a step has; throughput is in steps without.
    """
    images = _images_per_step(config or {})
    series = collections.defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                scale = images or 1 if name == "steps_per_second" else 1
                series[name].append((record["step"], scale * float(value)))
    groups = collections.defaultdict(dict)
    for name, points in series.items():
        label = name.removeprefix("d/").removeprefix("g/").removesuffix("_accuracy")
        groups[_group(name)][label] = points
    return [
        {"title": title, "svg": curves.draw(title, lines, unit=_unit(title, images))}
        for title, lines in sorted(groups.items())
    ]


THROUGHPUT = "Throughput"


def _group(name: str) -> str:
    player = {"d": "Discriminator", "g": "Generator"}.get(name.split("/")[0])
    if player is None:
        return THROUGHPUT if name == "steps_per_second" else name
    if name.endswith("_accuracy"):
        return f"{player}: retrieval accuracy within the batch"
    if name.endswith("_norm"):
        return f"{player}: norm of the gradient"
    if name.endswith("_logit"):
        return f"{player}: logits"
    return f"{player}: losses"


def _unit(title: str, images: int) -> str:
    if title != THROUGHPUT:
        return ""
    return "real images / s" if images else "steps / s"


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
            "svg": curves.draw(
                key[0], {key[0]: sorted(points.items())}, marked=True, bounds=bounds[key]
            ),
        }
        for key, points in sorted(series.items(), key=str)
        if len(points) > 1
    ]


def main() -> None:
    """Writes the report of ``--workdir`` and says where it is."""
    print(f"wrote {write_report(cli.required('workdir'))}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run; report.html is written into it.")
    cli.run(main)
