"""Measures a trained model; the config is read back from its folder, of a run or an exported one.

    python -m xmc_jax.evaluate --workdir=runs/shapes_32
    python -m xmc_jax.evaluate --workdir=runs/shapes_32 --step=2000 --metrics=shapes_accuracy
    python -m xmc_jax.evaluate --workdir=runs/shapes_32 --split=test_comp
    python -m xmc_jax.evaluate --workdir=runs/shapes_32 --watch
    python -m xmc_jax.evaluate --workdir=exports/shapes_32

Metrics, as far as they fit the run (docs/metrics.md): shapes_accuracy and shapes_accuracy_trained
(does the picture show what its caption says, on the shapes data: by measuring pixels, and by a
small trained network), fd_vgg16 (Fréchet distance in VGG-16's features), and, with
config.eval.inception_weights (--set=inception_weights=PATH), fid, kid, is and prdc with the number
of pictures in their names: fid30k. Prints a table and appends to metrics.jsonl in the folder, which
is no part of an exported model: it stays whole. Killed, it goes on where it was when it is started
again.
"""

import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError

_POLL_SECONDS = 5.0  # Between looks for a new checkpoint.


def main() -> None:
    """Reads the flags, measures, and prints."""
    values = flags.FLAGS
    workdir, names = cli.required("workdir"), tuple(name for name in values.metrics if name)
    if values.watch and values.step is not None:
        raise UserError("--watch measures every checkpoint; leave out --step")
    if values.watch and values.split:
        raise UserError("--watch measures on the run's own evaluation split; leave out --split")
    cli.set_up_jax()

    from xmc_jax.parallel import processes

    settings = _parse_settings(values.set)
    if values.watch:
        watch(workdir, values.data_dir, names, settings)
    else:
        records = evaluate(workdir, values.data_dir, names, values.step, settings, values.split)
        processes.say(format_table(records))


def evaluate(
    workdir: str,
    data_dir: str,
    names: Sequence[str] = (),
    step: int | None = None,
    settings: Mapping[str, str] = types.MappingProxyType({}),
    split: str | None = None,
) -> list[dict[str, Any]]:
    """Measures a checkpoint or an exported model, and appends to metrics.jsonl in its folder.

    Every process of a run calls it and has the numbers; the first one writes.

    Args:
      workdir: Folder of a run, or of an exported model.
      data_dir: Folder of the prepared data sets.
      names: Metrics, see `evaluation.families`; all that fit the run, if empty.
      step: Which checkpoint; the newest if None.
      settings: Fields of ``config.eval`` that this evaluation has otherwise, as text.
      split: What to measure on; the run's own evaluation split if None.

    Returns:
      One record a number: step, generator (fingerprint of the weights that drew), split, metric,
      protocol, value, floor, ceiling, low, high (of an interval, where it has one), better
      ("higher" or "lower"), num_samples, seed, weights (fingerprint of the judging network).

    Raises:
      UserError: a metric does not exist or cannot judge this run, or something is missing.
    """
    from xmc_jax.inference import model

    experiment, evaluation = _open(workdir, data_dir, names, settings, split)
    step, ema = model.restore(workdir, experiment, step)
    return _measure(workdir, experiment, evaluation, step, ema)


def watch(
    workdir: str,
    data_dir: str,
    names: Sequence[str] = (),
    settings: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Measures every checkpoint of a run once, as they come, until the last of its steps.

    May start before the run does, and may be stopped and started again: what metrics.jsonl has is
    not measured anew. It only reads what the trainer writes, and links a checkpoint to a place of
    its own for as long as it takes.

    Args:
      workdir: Folder of a run.
      data_dir: See `evaluate`.
      names: See `evaluate`.
      settings: See `evaluate`.

    Raises:
      UserError: see `evaluate`.
    """
    import numpy as np

    from xmc_jax.evaluation import results
    from xmc_jax.inference import exported
    from xmc_jax.parallel import processes
    from xmc_jax.run.checkpoint import Checkpoints, complete_steps
    from xmc_jax.run.config import read_config
    from xmc_jax.run.folder import checkpoints_dir, config_path, held_dir

    if exported.is_exported(workdir):
        raise UserError(
            f"{workdir} is an exported model, and --watch measures a run as its checkpoints come; "
            "leave out --watch"
        )

    if not config_path(workdir).exists():
        processes.say(f"waiting for a run in {workdir}")
    while not config_path(workdir).exists():
        time.sleep(_POLL_SECONDS)
    experiment, evaluation = _open(workdir, data_dir, names, settings)
    held = held_dir(workdir)
    done = results.measured_steps(workdir, evaluation.names)
    processes.say(f"watching {workdir}: {len(done)} checkpoints are measured already")
    while True:
        last = read_config(workdir).num_steps
        # What a watcher that was killed has held may be gone from the trainer's folder.
        there = {*complete_steps(checkpoints_dir(workdir)), *complete_steps(held)}
        new = sorted(there - done)
        # What the first process sees counts for all.
        step = int(processes.gather(np.int64(new[:1] or [-1]))[0, 0])
        if step >= 0:
            done.add(step)
            if _hold(workdir, step):
                with Checkpoints(held, read_only=True) as checkpoints:
                    _, ema = checkpoints.restore_ema(experiment.abstract_ema(), step)
                records = _measure(workdir, experiment, evaluation, step, ema)
                processes.say(format_table(records))
                processes.wait_for_all(f"measured {step}")
                if processes.is_first():
                    (held / str(step)).rmtree()
            continue
        if max(done, default=0) >= last:
            processes.say(f"done: {workdir} is at step {last} of {last}")
            return
        time.sleep(_POLL_SECONDS)


def _open(
    workdir: str,
    data_dir: str,
    names: Sequence[str],
    settings: Mapping[str, str],
    split: str | None = None,
):
    """The experiment of a folder, and how its checkpoints are measured."""
    from xmc_jax import files
    from xmc_jax.parallel import processes
    from xmc_jax.run.config import read_config

    config = read_config(workdir)
    _apply_settings(config, settings)
    if split:
        config.data.eval_split = split
    if processes.is_first():
        files.ensure_writable(workdir)

    from xmc_jax.evaluation import evaluator
    from xmc_jax.experiment import create_experiment
    from xmc_jax.run.config_checks import check_evaluation

    check_evaluation(config)
    evaluator.choose_metrics(names, config)  # Before anything slow.
    experiment = create_experiment(config, training=False)
    options = {"workdir": workdir, "data_dir": data_dir}
    return experiment, evaluator.make_evaluation(experiment, names, **options)


def _measure(workdir: str, experiment, evaluation, step: int, ema) -> list[dict[str, Any]]:
    """The records of a generator, which are also written; of a run, the best is kept."""
    from xmc_jax.evaluation import results
    from xmc_jax.inference import exported

    records = evaluation.measure(step, ema)
    results.write_records(workdir, records)
    if not exported.is_exported(workdir):
        results.keep_best(workdir, experiment.config.eval.best_metric)
    return records


def _parse_settings(given: Sequence[str]) -> dict[str, str]:
    parts = [text.partition("=") for text in given]
    for name, equals, _ in parts:
        if not equals:
            raise UserError(f"--set={name} has no value; write --set=FIELD=VALUE")
    return {name.removeprefix("config.").removeprefix("eval."): value for name, _, value in parts}


def _apply_settings(config, settings: Mapping[str, str]) -> None:
    for name, text in settings.items():
        if name not in config.eval:
            known = ", ".join(config.eval)
            raise UserError(f"config.eval has no field {name}; there are {known}")
        try:
            config.eval[name] = type(config.eval[name])(text)
        except ValueError as error:
            raise UserError(f"--set={name}={text}: {error}") from error


def _hold(workdir: str, step: int) -> bool:
    """Whether a checkpoint is safe from the trainer; the same in all processes."""
    import numpy as np

    from xmc_jax.evaluation.results import link_checkpoint
    from xmc_jax.parallel import processes
    from xmc_jax.run.folder import checkpoints_dir, held_dir

    held = False
    if processes.is_first():
        held = link_checkpoint(checkpoints_dir(workdir), held_dir(workdir), step)
    held = bool(processes.gather(np.bool_([held]))[0, 0])
    if not held:
        processes.say(f"notice: checkpoint {step} was deleted before it was measured")
    return held


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """The numbers of one checkpoint, a line each, with intervals where there are some."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    width = max(len(r["metric"]) for r in records) + 2
    lines = [f"{'metric':<{width}}{'value':>8}  {'interval':<16}{'floor':>8}{'ceiling':>9}{'n':>8}"]
    for r in records:
        interval = f"{number(r['low'])} - {number(r['high'])}" if r.get("low") is not None else ""
        lines.append(
            f"{r['metric']:<{width}}{number(r['value']):>8}  {interval:<16}"
            f"{number(r['floor']):>8}{number(r['ceiling']):>9}{r['num_samples']:>8}"
        )
    return "\n".join(lines)


def _define_flags() -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of a training run, or of an exported model; the numbers go to metrics.jsonl in it.",
    )
    cli.define_data_dir_flag()
    cli.define_process_flags()
    flags.DEFINE_integer("step", None, "Checkpoint to measure; the newest if not given.")
    flags.DEFINE_string(
        "split",
        None,
        "What to measure on, e.g. test_comp; the run's own config.data.eval_split if not given.",
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "FIELD=VALUE: a field of config.eval that this evaluation has otherwise than the run, e.g. "
        "--set=inception_weights=PATH --set=num_examples=30000.",
    )
    flags.DEFINE_bool(
        "watch",
        False,
        "Measure every checkpoint of a run as it comes, until the last step; may be stopped and "
        "started again.",
    )
    flags.DEFINE_list(
        "metrics",
        [],
        "Which ones, e.g. shapes_accuracy,fd_vgg16; all that fit the run if not given. A wrong "
        "name lists those of the run.",
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
