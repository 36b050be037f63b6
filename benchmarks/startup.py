"""How long a user waits for `--help`, and for the first image, beside JAX's own start.

    python -m benchmarks.startup                            # --help of every verb, and the demo
    python -m benchmarks.startup --workdir=runs/one_shape_32   # and the first image of a run

JAX's own start is `import jax; jax.numpy.zeros(1).block_until_ready()`: what nobody can go below.
Every run is a new process. `sample` runs with an empty compilation cache, then with a warm one.
Prints the median of the repeats in seconds, the ratio to JAX's start, and the peak memory; a
process shows at least the memory of this one, which starts it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from absl import app, flags

from benchmarks import measure

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run, for its first image.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each command.", lower_bound=1)
VERBS = ("train", "evaluate", "sample", "prepare", "plan", "report", "compare", "export")
JAX = ["-c", "import jax; jax.numpy.zeros(1).block_until_ready()"]


class Run(NamedTuple):
    seconds: float
    megabytes: float  # Peak resident memory.


def run(*arguments, **environment):
    """Runs Python with the arguments, and ends the benchmark if it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            sys.exit(output.read().decode())
    return Run(time.perf_counter() - start, usage.ru_maxrss / 1024)


def median(runs):
    return Run(*(statistics.median(numbers) for numbers in zip(*runs, strict=True)))


def first_image(model, folder):
    """``{state of the compilation cache: Run}``."""
    command = ["-m", "xmc_jax.sample", *model, "--caption=a red circle", f"--out={folder}/images"]
    found = {"empty": [], "warm": []}
    for repeat in range(REPEATS.value):
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache_{repeat}"}
        for runs in found.values():
            runs.append(run(*command, **cache))
    return {state: median(runs) for state, runs in found.items()}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    run(*JAX)  # Files come from the disk once.
    own = median([run(*JAX) for _ in range(REPEATS.value)])
    found = {"JAX's own start": own}
    for verb in VERBS:
        command = "-m", f"xmc_jax.{verb}", "--help"
        found[f"{verb} --help"] = median([run(*command) for _ in range(REPEATS.value)])
    models = {"sample --demo": ["--demo"]}
    if WORKDIR.value:
        models[f"sample --workdir={WORKDIR.value}"] = [f"--workdir={WORKDIR.value}"]
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            for state, cost in first_image(model, folder).items():
                found[f"{name}, {state} cache"] = cost
    rows = [
        (name, cost.seconds, cost.seconds / own.seconds, cost.megabytes)
        for name, cost in found.items()
    ]
    measure.print_table(("", "seconds", "of JAX's start", "peak MB"), rows)


if __name__ == "__main__":
    app.run(main)
