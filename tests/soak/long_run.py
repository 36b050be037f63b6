"""Thousands of tiny steps: memory, file descriptors, threads, compilations and checkpoints stay.

    python -m tests.soak.long_run --steps=20000 --folder=/tmp/long_run

Trains in this process and looks at it ten times. The wall clock is set back by a day, and forth, in
between (as this process sees it): nothing may depend on it. Exit code 1 if anything grew.
"""

import argparse
import os
import pathlib
import sys
import threading
import time

import psutil

NUM_LOOKS = 10
# After the second look (compilation, caches, pools) memory may grow by this much: the allocator's.
MAX_GROWTH = 0.03


def watch(log, workdir: pathlib.Path, looks: list, compiled: list) -> None:
    """Has `TrainLog.flush` take a look, and the clock jump."""
    flush, real_time, process = log.flush, time.time, psutil.Process()

    def look(self) -> None:
        flush(self)
        looks.append(
            {
                "flush": len(looks),
                "MB": process.memory_info().rss / 1e6,
                "files": process.num_fds(),
                "compilations": len(compiled),
                "threads": threading.active_count(),
                "checkpoints": len(list((workdir / "checkpoints").glob("[0-9]*"))),
            }
        )
        shift = (0, -86_400, 86_400)[len(looks) % 3]
        time.time = lambda: real_time() + shift

    log.flush = look


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")

    import jax

    from xmc_jax.configs import shapes_32
    from xmc_jax.training import log as train_log
    from xmc_jax.training.start import train

    config = shapes_32.get_config()
    config.batch_size, config.num_steps = 4, options.steps
    config.data.form = "sq32_n400"
    config.model.generator_width = config.model.discriminator_width = 1
    config.log_every_steps = max(options.steps // 200, 1)
    config.sample_every_steps = max(options.steps // 20, 1)
    config.checkpoint_every_steps = max(options.steps // 50, 1)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    looks: list[dict] = []
    workdir = options.folder / "run"
    watch(train_log.TrainLog, workdir, looks, compiled)
    begin = time.monotonic()
    train(config, str(workdir), str(options.folder / "data"))
    seconds = time.monotonic() - begin

    shown = looks[:: max(len(looks) // NUM_LOOKS, 1)]
    for row in shown:
        print("  ".join(f"{name} {value:.0f}" for name, value in row.items()))
    early, late = looks[len(looks) // 5], looks[-2]
    faults = [
        f"{name} grew from {early[name]:.0f} to {late[name]:.0f}"
        for name in ("MB", "files", "threads", "compilations")
        if late[name] > early[name] * (1 + (MAX_GROWTH if name == "MB" else 0))
    ]
    if (most := max(row["checkpoints"] for row in looks)) > config.keep_checkpoints + 1:
        faults.append(
            f"{most} checkpoints at once, with config.keep_checkpoints={config.keep_checkpoints}"
        )
    print("\n".join(faults))
    print(f"{options.steps} steps in {seconds:.0f} s: {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
