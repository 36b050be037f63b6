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
      names: Metrics, see `evaluation.families`; all that fit the run, if empty.
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
    from xmc_jax.evaluation.families import choose_metrics, make_evaluation
    from xmc_jax.experiment import check_config, create_experiment

    check_config(config)
    names = choose_metrics(names, config)
    experiment = create_experiment(config, training=False)
    measure = make_evaluation(experiment, names, workdir=workdir, data_dir=data_dir)
    with Checkpoints(run.checkpoints_dir(workdir), read_only=True) as checkpoints:
        step, ema = checkpoints.restore_ema(experiment.abstract_ema(), step)
    records = measure(step, ema)
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


def _define_flags() -> None:
    cli.define_workdir_flag()
    cli.define_data_dir_flag()
    cli.define_process_flags()
    flags.DEFINE_integer("step", None, "Checkpoint to measure; the newest if not given.")
    flags.DEFINE_list(
        "metrics",
        [],
        "Which ones, e.g. shapes_accuracy,fd_vgg16; all that fit the run if not given. A wrong "
        "name lists those of the run.",
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
