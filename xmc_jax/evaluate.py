"""Measures a trained model; the config is read back from the run's folder.

    python -m xmc_jax.evaluate --workdir=runs/shapes_32
    python -m xmc_jax.evaluate --workdir=runs/shapes_32 --step=2000 --metrics=shapes_accuracy

Metrics: shapes_accuracy (does the picture show what its caption says, on the shapes data) and
fd_vgg16 (Fréchet distance in VGG-16's features). Prints a table and appends to metrics.jsonl.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError
from xmc_jax.progress import Progress

METRICS = ("shapes_accuracy", "fd_vgg16")
_FD_RESOLUTION = 64  # Pixels; VGG-16 halves them five times.


def main() -> None:
    """Reads the flags, measures, and prints."""
    workdir = cli.required("workdir")
    names = tuple(name for name in flags.FLAGS.metrics if name)
    cli.set_up_jax()
    records = evaluate(workdir, flags.FLAGS.data_dir, names, flags.FLAGS.step)

    from xmc_jax import processes

    processes.say(format_table(records))


def evaluate(
    workdir: str, data_dir: str, names: Sequence[str], step: int | None = None
) -> list[dict[str, Any]]:
    """Measures a checkpoint on the run's evaluation split, and appends to metrics.jsonl.

    Every process of a run calls it and has the numbers; the first one writes.

    Args:
      workdir: Folder of a run.
      data_dir: Folder of the prepared data sets.
      names: Some of `METRICS`; all that fit the run, if empty.
      step: Which checkpoint; the newest if None.

    Returns:
      One record a number: step, metric, protocol, value, floor, ceiling, num_samples, seed,
      weights (fingerprint of the judging network).

    Raises:
      UserError: a metric does not exist or cannot judge this run, or something is missing.
    """
    from xmc_jax import processes
    from xmc_jax import workdir as run

    config = run.read_config(workdir)
    if processes.is_first():
        run.ensure_writable(workdir)

    from xmc_jax.checkpoint import Checkpoints
    from xmc_jax.experiment import check_config, create_experiment

    check_config(config)
    names = _choose_metrics(names, config)
    experiment = create_experiment(config, training=False)
    with processes.first_process_first("read the examples"):
        real, others, examples = _read_examples(experiment, data_dir)
    with Checkpoints(run.checkpoints_dir(workdir), read_only=True) as checkpoints:
        step, ema = checkpoints.restore_ema(experiment.abstract_ema(), step)
    drawn = _draw(experiment, ema, [tokens for _, tokens, _, _ in examples])

    about = {"kind": "eval", "step": step, "num_samples": len(drawn), "seed": config.eval.seed}
    records = []
    if "shapes_accuracy" in names:
        records += _measure_shapes(config, examples, drawn, real)
    if "fd_vgg16" in names:
        records.append(_measure_fd(experiment, drawn, real, others))
    records = [about | record for record in records]
    if processes.is_first():
        known = run.read_metrics(workdir)
        run.append_metrics(workdir, [record for record in records if record not in known])
    return records


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """The numbers of one checkpoint, a line each."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = [f"{'metric':<30}{'value':>10}{'floor':>10}{'ceiling':>10}{'n':>8}"]
    for r in records:
        columns = "".join(f"{number(r[name]):>10}" for name in ("value", "floor", "ceiling"))
        lines.append(f"{r['metric']:<30}{columns}{r['num_samples']:>8}")
    return "\n".join(lines)


def _choose_metrics(names: Sequence[str], config) -> tuple[str, ...]:
    """The metrics to measure; those asked for by name must be able to judge this run."""
    from xmc_jax.experiment import evaluation_data

    unfit, data = {}, evaluation_data(config)
    if data != "shapes":
        unfit["shapes_accuracy"] = f"the run is evaluated on {data}, which has no logical forms"
    if config.loss.image_pretrained_weight and config.loss.image_pretrained_network == "vgg16":
        unfit["fd_vgg16"] = "the run was trained against VGG-16's own features"
    for name in names:
        if name not in METRICS:
            raise UserError(f"no metric {name!r}; there are {', '.join(METRICS)}")
        if name in unfit:
            raise UserError(f"{name} cannot judge this run: {unfit[name]}")
    return tuple(names) or tuple(name for name in METRICS if name not in unfit)


def _read_examples(experiment, data_dir: str):
    """Real images of the prompts, as many other real images, and the prompts themselves.

    Returns:
      Two arrays of pixels, and ``(id, tokens, caption, caption_index)`` of each prompt.
    """
    import numpy as np

    from xmc_jax import processes
    from xmc_jax.data import batches, reader
    from xmc_jax.experiment import evaluation_data

    config = experiment.config
    name = evaluation_data(config)
    source = reader.open_split(
        name,
        form=config.data.form,
        split=config.data.eval_split,
        data_dir=data_dir,
        build_missing=name == "shapes",
    )
    wanted = config.eval.num_examples
    examples = batches.eval_examples(
        source,
        experiment.tokenizer,
        resolution=config.model.resolution,
        batch_size=config.eval.batch_size,
        num_examples=2 * wanted,
        seed=config.eval.seed,
        crop=config.data.crop,
        antialias=config.data.antialias,
    )
    pixels, prompts = [], []
    for batch in examples:
        pixels.extend(batch.image[batch.valid])
        prompts += zip(
            batch.ids,
            batch.tokens[batch.valid],
            batch.captions,
            batch.caption_indices,
            strict=True,
        )
    # A small split is shared evenly: the second half is for the floor of distances.
    count = min(wanted, len(prompts) // 2)
    if count < wanted:
        processes.say(
            f"notice: split {config.data.eval_split} has {len(prompts)} examples: {count} serve as "
            f"prompts (config.eval.num_examples={wanted})"
        )
    if count < 2:
        raise UserError(f"split {config.data.eval_split} is too small to measure anything on")
    pixels = np.stack(pixels)
    return pixels[:count], pixels[count : 2 * count], prompts[:count]


def _draw(experiment, ema, tokens: list):
    """One picture a prompt, with progress."""
    import numpy as np

    from xmc_jax import processes
    from xmc_jax.sampling import Sampler

    size, seed = experiment.config.eval.batch_size, experiment.config.eval.seed
    sampler = Sampler(experiment, size)
    tokens, drawn = np.stack(tokens), []
    progress = Progress(len(tokens), name="drawing", unit="images", silent=not processes.is_first())
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        drawn.append(sampler(ema, part, seed=seed, first_index=start))
        progress.tell(start + len(part))
    return np.concatenate(drawn)


def _measure_shapes(config, examples, drawn, real) -> list[dict[str, Any]]:
    """Accuracy of every attribute; ceiling: real images; floor: other images' captions."""
    from xmc_jax.data import shapes, shapes_captions
    from xmc_jax.metrics import shapes_accuracy as metric

    parse = metric.make_parser(
        resolution=config.model.resolution,
        palette=shapes.COLOURS,
        backgrounds=shapes.BACKGROUNDS,
        shapes=shapes.SHAPES,
        sizes={name: radius / shapes.GRID for name, radius in shapes.SIZES.items()},
        silhouette=shapes.silhouette,
    )

    def claims(example_id: str, index: int) -> tuple:
        if config.data.form.startswith("narrative_"):
            split, _, number = example_id.rpartition("-")
            return shapes_captions.make_narrative(split, int(number))[1].forms
        return (shapes_captions.example_from_id(example_id).captions[index].form,)

    forms = [claims(example_id, index) for example_id, _, _, index in examples]
    shuffled = [forms[i] for i in metric.shuffle_captions(len(forms), config.eval.seed)]

    def accuracy(scenes, forms) -> dict[str, tuple[float, int]]:
        pairs = [(s, f) for s, claimed in zip(scenes, forms, strict=True) for f in claimed]
        return metric.shapes_accuracy(*zip(*pairs, strict=True))

    scenes = [parse(image) for image in drawn]
    value, floor = accuracy(scenes, forms), accuracy(scenes, shuffled)
    ceiling = accuracy([parse(image) for image in real], forms)
    protocol = (
        f"analytic reader, {_split_name(config)}, one caption an image drawn with seed "
        f"{config.eval.seed}; ceiling: real images; floor: captions shuffled"
    )
    return [
        {
            "metric": f"shapes_accuracy/{name}",
            "protocol": protocol,
            "value": value[name][0],
            "floor": floor[name][0],
            "ceiling": ceiling[name][0],
            "claims": value[name][1],
            "weights": None,
        }
        for name in value
    ]


def _measure_fd(experiment, drawn, real, others) -> dict[str, Any]:
    """Fréchet distance in VGG-16's features; floor: two disjoint sets of real images."""
    import jax
    import numpy as np

    from xmc_jax import images, sharding
    from xmc_jax.frozen.image_features import PACKAGED, load_image_features
    from xmc_jax.metrics import frechet

    mesh = experiment.mesh
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    network = load_image_features("vgg16", PACKAGED, _FD_RESOLUTION)
    params = sharding.put(network.params, whole)
    apply = jax.jit(
        lambda params, pixels: network.apply(params, images.from_uint8(pixels)),
        out_shardings=whole,
    )
    size = -(-experiment.config.eval.batch_size // mesh.size) * mesh.size

    def features(pixels) -> np.ndarray:
        padded = np.concatenate([pixels, np.repeat(pixels[-1:], size - len(pixels), 0)])
        return np.asarray(apply(params, sharding.put(padded, rows)))[: len(pixels)]

    def measure(pixels) -> frechet.Moments:
        parts = (pixels[start : start + size] for start in range(0, len(pixels), size))
        return frechet.merge(frechet.moments(features(part)) for part in parts)

    reference = measure(real)
    split = _split_name(experiment.config)
    return {
        "metric": "fd_vgg16",
        "protocol": (
            f"Fréchet distance, pooled conv5 features of VGG-16 at {_FD_RESOLUTION} px, {split}; "
            "floor: two disjoint sets of real images of the same size"
        ),
        "value": frechet.frechet_distance(measure(drawn), reference),
        "floor": frechet.frechet_distance(measure(others), reference),
        "ceiling": None,
        "weights": network.fingerprint,
    }


def _split_name(config) -> str:
    """The split of evaluation, as protocols have it: with its data set, if that is another."""
    return " of ".join(x for x in (config.data.eval_split, config.data.eval_name) if x)


def _define_flags() -> None:
    cli.define_workdir_flag()
    cli.define_data_dir_flag()
    cli.define_process_flags()
    flags.DEFINE_integer("step", None, "Checkpoint to measure; the newest if not given.")
    flags.DEFINE_list("metrics", [], f"Some of {', '.join(METRICS)}; all that fit if not given.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
