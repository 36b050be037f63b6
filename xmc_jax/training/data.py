"""The batches of a training run."""

import contextlib
import os
from collections.abc import Generator

import jax
from ml_collections import ConfigDict

from xmc_jax.data import streams
from xmc_jax.data.prefetch import ReadAhead
from xmc_jax.data.records import Records
from xmc_jax.experiment import Experiment
from xmc_jax.parallel import processes
from xmc_jax.training.caption_cache import CaptionCache
from xmc_jax.types import Batch


def open_stream(
    experiment: Experiment, source: Records, reader_workers: int | None, first_step: int
) -> ReadAhead | Generator[Batch]:
    """This process's batches of the steps after `first_step`; close it after use.

    Args:
      experiment: Of the run.
      source: The split to train on.
      reader_workers: Worker processes that read; 0 for threads, chosen for this machine if None.
      first_step: The last step that has been taken.
    """
    config = experiment.config
    if reader_workers is None:
        # JAX uses every core when it computes on the CPU. Otherwise one core reads a thousand
        # prepared images a second (benchmarks/RESULTS.md), and half of the cores stay free.
        idle = 0 if jax.default_backend() == "cpu" else os.cpu_count() or 1
        reader_workers = min(idle // 2, 16) if idle >= 8 else 0
    if reader_workers:
        processes.say(f"reading with {reader_workers} worker processes (--reader_workers)")
    stream = streams.train_batches(
        source,
        experiment.tokenizer,
        resolution=config.model.resolution,
        **sampling(config),
        start_step=first_step,
        crop=config.data.crop,
        antialias=config.data.antialias,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=reader_workers,
    )
    if capacity := config.data.cached_captions:
        cache = CaptionCache(
            experiment.text_encoder.apply,
            experiment.frozen.text,
            capacity=capacity,
            num_tokens=config.text.num_tokens,
            width=experiment.text_encoder.width,
        )
        return _encode(stream, cache)
    return stream


def sampling(config: ConfigDict) -> dict[str, int]:
    """Arguments of `streams` that decide which examples and captions a step has."""
    return {
        "batch_size": config.batch_size,
        "num_micro_batches": config.d_steps,
        "seed": config.seed,
        "longest_until": round(config.data.longest_caption_until * config.num_steps),
    }


def _encode(stream: ReadAhead, cache: CaptionCache) -> Generator[Batch]:
    with contextlib.closing(stream):
        yield from map(cache, stream)
