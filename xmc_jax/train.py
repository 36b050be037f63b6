"""Trains a text-to-image model; started again with the same command, it goes on where it was.

    python -m xmc_jax.train --config=configs/shapes_32.py --workdir=runs/shapes_32
    python -m xmc_jax.train --config=configs/shapes_32.py:s_w --workdir=runs/s_w \
        --config.batch_size=64

Writes to the workdir: config.json, metrics.jsonl, TensorBoard events, samples/, checkpoints/.
"""

import contextlib
import os
import time

from absl import flags

from xmc_jax import cli, progress
from xmc_jax.errors import UserError

NUM_GRID_CAPTIONS = 32
GRID_COLUMNS = 8


def main() -> None:
    """Reads the flags and trains."""
    config, workdir = cli.required_config(), cli.required("workdir")
    cli.set_up_jax()
    train(config, workdir, flags.FLAGS.data_dir, flags.FLAGS.reader_workers, flags.FLAGS.fsdp)


def train(
    config, workdir: str, data_dir: str, reader_workers: int | None = None, fsdp: int = 1
) -> None:
    """Trains until ``config.num_steps``, from the newest checkpoint of the workdir if it has any.

    Every process of a run calls it; the first one writes.

    Args:
      config: A resolved experiment; see `configs/shapes_32.py`.
      workdir: Folder of the run.
      data_dir: Folder of the prepared data sets.
      reader_workers: Worker processes that read; 0 for threads, chosen if None. Changes no result.
      fsdp: Devices that share one copy of the parameters. Changes no result but by rounding.

    Raises:
      UserError: a setting cannot work, something is missing, or a loss is no longer finite.
    """
    import jax

    from xmc_jax import processes, sharding
    from xmc_jax import workdir as run
    from xmc_jax.checkpoint import Checkpoints
    from xmc_jax.experiment import check_config, create_experiment

    # Act 1: the folder of the run, and whether this config belongs to it.
    if processes.is_first():
        run.ensure_writable(workdir)
    run.check_config(workdir, config)

    # Act 2: data, networks, state.
    check_config(config)
    with processes.first_process_first("open the data"):
        source, eval_source = _open_splits(config, data_dir)
    of_processes = f" of {n} processes" if (n := jax.process_count()) > 1 else ""
    processes.say(f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}{of_processes}")
    experiment = create_experiment(config, fsdp=fsdp)
    preview = _read_preview(experiment, eval_source)
    if processes.is_first():
        run.write_config(workdir, config)
        _write_captions(workdir, preview.captions)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(run.checkpoints_dir(workdir), keep_latest=config.keep_checkpoints)
        )
        if checkpoints.latest_step() is None:
            state = experiment.init_state()
        else:
            state = checkpoints.restore(experiment.abstract_state())
        first_step = int(state.step)
        if first_step >= config.num_steps:
            processes.say(f"nothing to do: {workdir} is at step {first_step} of {config.num_steps}")
            return
        if processes.is_first():
            run.truncate_metrics(workdir, first_step)
        processes.say(f"training from step {first_step} to {config.num_steps}")

        # Act 3: the loop.
        stream = _open_stream(experiment, source, first_step, reader_workers)
        stack.callback(stream.close)
        writer = _make_writer(workdir)
        log = _Log(config, workdir, writer, first_step)
        draw = _make_preview(experiment, preview, workdir, writer)
        train_step = experiment.jit_train_step()
        evaluate = _make_evaluation(experiment, workdir, data_dir, checkpoints, writer)
        if evaluate and first_step and first_step % config.eval.every_steps == 0:
            evaluate(first_step, state.ema)  # Unless it was before the run was cut off.
        # Made on all devices at once: a key of one process cannot be sent to another's.
        make_key = jax.jit(jax.random.key, out_shardings=sharding.replicated(experiment.mesh))
        rng = make_key(config.seed + 1)
        for step in range(first_step + 1, config.num_steps + 1):
            batch = sharding.put_batch(next(stream), experiment.mesh, batch_axis=1)
            state, metrics = train_step(state, batch, experiment.frozen, rng)
            last = step == config.num_steps
            log.add(step, metrics)
            # A checkpoint follows a look at the losses: what is not finite is never saved.
            if last or step % config.log_every_steps == 0 or step == first_step + 1:
                log.flush()
            if last or step % config.sample_every_steps == 0:
                draw(step, state.ema)
            if last or step % config.checkpoint_every_steps == 0:
                log.flush()
                checkpoints.save(step, state)
            if evaluate and step % config.eval.every_steps == 0:
                log.flush()
                evaluate(step, state.ema)
                log.restart_clock()
        writer.close()
    processes.say(f"done: {workdir} is at step {config.num_steps}")


def _make_writer(workdir: str):
    """Of TensorBoard events, in the first process; elsewhere it writes nothing."""
    # Loads TensorFlow, which no mistake before should wait for.
    from clu import metric_writers

    from xmc_jax import processes

    writers = [metric_writers.SummaryWriter(workdir)] if processes.is_first() else []
    return metric_writers.MultiWriter(writers)


def _open_splits(config, data_dir: str) -> tuple:
    """The training split and the one that previews are drawn from."""
    from xmc_jax.data import reader
    from xmc_jax.experiment import evaluation_data

    return tuple(
        reader.open_split(
            name,
            form=config.data.form,
            split=split,
            data_dir=data_dir,
            # Only the procedural data can be made on the spot; others need archives.
            build_missing=name == "shapes",
        )
        for name, split in (
            (config.data.name, config.data.train_split),
            (evaluation_data(config), config.data.eval_split),
        )
    )


def _read_preview(experiment, source):
    """The captions whose pictures show the progress."""
    from xmc_jax.data.batches import eval_examples

    config = experiment.config
    examples = eval_examples(
        source,
        experiment.tokenizer,
        resolution=config.model.resolution,
        batch_size=NUM_GRID_CAPTIONS,
        num_examples=NUM_GRID_CAPTIONS,
        seed=config.eval.seed,
        crop=config.data.crop,
        antialias=config.data.antialias,
    )
    with contextlib.closing(examples):
        return next(examples)


def _open_stream(experiment, source, first_step: int, reader_workers: int | None):
    import jax

    from xmc_jax import processes
    from xmc_jax.data.batches import train_batches

    config = experiment.config
    if reader_workers is None:
        # Where JAX computes on the CPU, it takes every core. Elsewhere a core reads a thousand
        # prepared images a second (benchmarks/RESULTS.md), and half of the cores stay free.
        idle = 0 if jax.default_backend() == "cpu" else os.cpu_count() or 1
        reader_workers = min(idle // 2, 16) if idle >= 8 else 0
    if reader_workers:
        processes.say(f"reading with {reader_workers} worker processes (--reader_workers)")
    return train_batches(
        source,
        experiment.tokenizer,
        resolution=config.model.resolution,
        batch_size=config.batch_size,
        num_micro_batches=config.d_steps,
        seed=config.seed,
        start_step=first_step,
        crop=config.data.crop,
        antialias=config.data.antialias,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=reader_workers,
    )


def _write_captions(workdir: str, captions: list[str]) -> None:
    import json

    from xmc_jax import workdir as run

    run.samples_dir(workdir).mkdir(parents=True, exist_ok=True)
    layout = {"captions": captions, "columns": GRID_COLUMNS}
    run.captions_path(workdir).write_text(json.dumps(layout, indent=2) + "\n")


def _make_preview(experiment, preview, workdir: str, writer):
    """``draw(step, ema)``: the fixed captions' pictures, as a PNG in the workdir and an event."""
    from xmc_jax import images, processes
    from xmc_jax import workdir as run
    from xmc_jax.sampling import Sampler

    sampler = Sampler(experiment, NUM_GRID_CAPTIONS)
    tokens = preview.tokens[preview.valid]

    def draw(step: int, ema) -> None:
        drawn = sampler(ema, tokens, seed=experiment.config.eval.seed)
        if processes.is_first():
            grid = images.make_grid(drawn, num_columns=GRID_COLUMNS)
            factor = max(1, 96 // experiment.config.model.resolution)
            run.sample_path(workdir, step).write_bytes(
                images.encode_png(images.enlarge(grid, factor))
            )
            writer.write_images(step, {"samples": grid[None]})

    return draw


def _make_evaluation(experiment, workdir: str, data_dir: str, checkpoints, writer):
    """``evaluate(step, ema)`` on the devices of training; None if the config wants it never."""
    config = experiment.config
    if not config.eval.every_steps:
        return None

    import numpy as np

    from xmc_jax import processes
    from xmc_jax.evaluation import families, results

    names = families.choose_metrics((), config)
    measure = families.make_evaluation(experiment, names, workdir=workdir, data_dir=data_dir)

    def evaluate(step: int, ema) -> None:
        # What the first process sees counts for all.
        if processes.gather(np.bool_([step in results.measured_steps(workdir, names)]))[0, 0]:
            return
        records = measure(step, ema)
        results.write_records(workdir, records)
        values = {f"eval/{r['metric']}": r["value"] for r in records if r["value"] is not None}
        writer.write_scalars(step, values)
        if config.eval.best_metric:
            checkpoints.wait()  # Only a complete one can be kept.
            results.keep_best(workdir, config.eval.best_metric)

    return evaluate


class _Log:
    """The numbers of training: to the screen, to metrics.jsonl and to TensorBoard.

    Metrics stay on the device until `flush`, so that the loop never waits for a step to end.
    """

    def __init__(self, config, workdir: str, writer, first_step: int):
        self._config, self._workdir, self._writer = config, workdir, writer
        self._pending: list[tuple[int, dict]] = []
        self._flushed_step = first_step
        self._flushed_at = time.monotonic()
        self._compiled = False

    def add(self, step: int, metrics: dict) -> None:
        """Takes the metrics of one step, still on the device."""
        self._pending.append((step, metrics))

    def flush(self) -> None:
        """Fetches what has been added, checks it, and writes the lines that are due.

        Raises:
          UserError: a metric is not finite; names the first one and its step.
        """
        import jax

        from xmc_jax import processes

        if not self._pending:
            return
        steps, metrics = zip(*self._pending, strict=True)
        self._pending.clear()
        metrics = jax.device_get(metrics)
        for step, values in zip(steps, metrics, strict=True):
            self._check_finite(step, values)

        now = time.monotonic()
        rate = len(steps) / max(now - self._flushed_at, 1e-9)
        if not self._compiled:
            processes.say(f"first step, compilation included: {now - self._flushed_at:.0f} s")
        self._compiled, self._flushed_at = True, now
        for step, values in zip(steps, metrics, strict=True):
            if step % self._config.log_every_steps == 0 and processes.is_first():
                self._write(step, {k: float(v) for k, v in values.items()}, rate)

    def restart_clock(self) -> None:
        """Leaves out of the rate what was not training."""
        self._flushed_at = time.monotonic()

    def _write(self, step: int, values: dict[str, float], rate: float) -> None:
        from xmc_jax import workdir as run

        config = self._config
        run.append_metrics(
            self._workdir,
            [{"kind": "train", "step": step, **values, "steps_per_second": rate}],
        )
        self._writer.write_scalars(step, {**values, "steps_per_second": rate})
        remaining = (config.num_steps - step) / rate
        images_per_second = rate * config.batch_size * config.d_steps
        shown = ["d/loss", "g/loss", *(k for k in values if k.endswith("sentence_accuracy"))]
        print(
            f"step {step}/{config.num_steps}  "
            + "  ".join(f"{name} {values[name]:.3f}" for name in shown)
            + f"  {rate:.2f} steps/s  {images_per_second:.0f} images/s"
            f"  ETA {progress.format_duration(remaining)}",
            flush=True,
        )

    def _check_finite(self, step: int, values: dict) -> None:
        import numpy as np

        for name, value in values.items():
            if not np.isfinite(value):
                raise UserError(
                    f"{name} is {value} at step {step}: the run stops, and its checkpoints "
                    f"up to step {self._flushed_step} are good; try a lower learning rate or "
                    "--config.model.dtype=float32"
                )
        self._flushed_step = step


if __name__ == "__main__":
    cli.define_config_flag()
    cli.define_workdir_flag()
    cli.define_data_dir_flag()
    cli.define_process_flags()
    flags.DEFINE_integer(
        "fsdp",
        1,
        "Devices that share one copy of parameters, moments and averages, for networks that do not "
        "fit on one. Changes no result but by rounding.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "reader_workers",
        None,
        "Processes that read and decode; 0: threads of this one. Changes speed, never a result. "
        "Chosen by the number of cores if not given.",
        lower_bound=0,
    )
    cli.run(main)
