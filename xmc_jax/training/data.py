"""The data of a training run, opened as its config says."""

import contextlib
import os

NUM_GRID_CAPTIONS = 32  # Of the preview.


def open_splits(config, data_dir: str) -> tuple:
    """The training split and the one that previews are drawn from."""
    from xmc_jax.data import catalog
    from xmc_jax.run.config_checks import evaluation_data

    return tuple(
        catalog.open_split(
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


def read_preview(experiment, source):
    """The captions whose pictures show the progress."""
    from xmc_jax.data.streams import eval_examples

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


def open_stream(experiment, source, reader_workers: int | None, first_step: int):
    """This process's batches of the steps after `first_step`; workers are chosen if None."""
    import jax

    from xmc_jax.data.streams import train_batches
    from xmc_jax.parallel import processes

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
