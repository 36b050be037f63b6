"""How long a user waits for `--help`, the first image and the first step, beside JAX's own start.

    python -m benchmarks.startup                               # --help of every verb, and the demo
    python -m benchmarks.startup --workdir=runs/one_shape_32   # and the first image of a run
    python -m benchmarks.startup --train --earlier=CHECKOUT    # part by part; and of another commit

JAX's own start is `import jax; jax.numpy.zeros(1).block_until_ready()`: what nobody can go below.
Every run is a new process. `sample` and `train` run with an empty compilation cache, then with a
warm one. Prints the median of the repeats in seconds, the ratio to JAX's start, and the peak
memory; a process shows at least the memory of this one, which starts it. Of `train` on the default
config (its data set is built before), prints the seconds between its lines.
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
from xmc_jax.cli import VERBS

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run, for its first image.")
TRAIN = flags.DEFINE_bool("train", False, "Measure the start of `train` instead.")
EARLIER = flags.DEFINE_string(
    "earlier", None, "Checkout of another commit, whose `train` takes turns with this one."
)
REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each command.", lower_bound=1)
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


# Parts of the start of `train`, and the words of the line that ends each.
PARTS = {
    "imports, and the data set is open": "devices: ",
    "projection of the text, networks, parameters": "training from step",
    "first step, compilation included": "first step",
}


def train_parts(checkout, folder, cache):
    """Seconds of each part; the run is killed after its first step."""
    command = ["-m", "xmc_jax.train", "--config=configs/one_shape_32.py", f"--workdir={folder}"]
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=checkout,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        parts, last = [], time.perf_counter()
        for words in PARTS.values():
            if not any(words in line for line in iter(child.stdout.readline, "")):
                sys.exit(f"train in {checkout} ended without {words!r}")
            now = time.perf_counter()
            parts.append(now - last)
            last = now
        child.kill()
    return parts


def print_train_start():
    checkouts = {"now": os.getcwd()} | ({"earlier": EARLIER.value} if EARLIER.value else {})
    found = {(state, name): [] for state in ("empty", "warm") for name in checkouts}
    for _ in range(REPEATS.value):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("empty", "warm"):
                for name, checkout in checkouts.items():
                    workdir, cache = f"{folder}/{name}_{state}", f"{folder}/cache_{name}"
                    found[state, name].append(train_parts(checkout, workdir, cache))
    columns = [list(map(statistics.median, zip(*x, strict=True))) for x in found.values()]
    rows = [(part, *numbers) for part, *numbers in zip(PARTS, *columns, strict=True)]
    rows.append(("whole", *map(sum, columns)))
    measure.print_table(("", *(f"{name}, {state} cache" for state, name in found)), rows)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if EARLIER.value and not TRAIN.value:
        raise app.UsageError("--earlier needs --train")
    measure.print_environment()
    if TRAIN.value:
        return print_train_start()
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
