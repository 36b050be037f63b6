"""How long a user waits for `--help` of every verb and for the first image of a trained run.

    python -m benchmarks.startup --workdir=runs/shapes_32

`sample` runs twice with a new compilation cache: first empty, then warm. Every run is a
new process; the time of `--help` is the median of three.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import measure

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run; without it, only --help is timed.")
VERBS = ("train", "evaluate", "sample", "prepare", "plan", "report", "compare", "export")


def time_process(*arguments, **environment):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    rows = [
        (
            f"{verb} --help",
            statistics.median(time_process(f"xmc_jax.{verb}", "--help") for _ in range(3)),
        )
        for verb in VERBS
    ]
    if WORKDIR.value:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("empty", "warm"):
                seconds = time_process(
                    "xmc_jax.sample",
                    f"--workdir={WORKDIR.value}",
                    "--caption=a red circle",
                    f"--out={pathlib.Path(folder, 'images')}",
                    JAX_COMPILATION_CACHE_DIR=str(pathlib.Path(folder, "cache")),
                )
                rows.append((f"sample, one caption, {state} cache", seconds))
    measure.print_table(("", "seconds"), rows)


if __name__ == "__main__":
    app.run(main)
