"""The paper's ablation on shapes: trains rows x seeds with one budget, and prints a table.

    python -m benchmarks.ablation --folder=runs/ablation
    python -m benchmarks.ablation --folder=runs/ablation --rows=none,s_w --seeds=5 --jobs=4
    python -m benchmarks.ablation --folder=runs/ablation --out=docs/ablation.png

Trains every row (an argument of the config, see configs/ablations.py) with every seed with
`python -m xmc_jax.train`, and measures its checkpoints with `evaluate --watch`. Started again, both
resume, and skip what is complete. Fields are overridden after `--`:

    python -m benchmarks.ablation --folder=runs/longer -- --config.num_steps=4000

Prints the mean over seeds at the last step, with Student's 95 % interval and the floor (the same
with shuffled captions), and plots the curves.
"""

import concurrent.futures
import os
import pathlib
import queue
import subprocess
import sys

import numpy as np
from absl import app, flags
from scipy import stats

from benchmarks import measure
from xmc_jax.configs import ablations
from xmc_jax.errors import UserError
from xmc_jax.run.records import evaluations, read_metrics

FOLDER = flags.DEFINE_string("folder", None, "Folder of all runs.", required=True)
CONFIG = flags.DEFINE_string("config", "configs/shapes_ablation_32.py", "Config of the rows.")
ROWS = flags.DEFINE_list("rows", "none,s,w,d,s_w,s_w_d,self_modulation", "Rows of the ablation.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each row: seeds 0, 1, ….", lower_bound=1)
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time; they share the CPU cores.")
OUT = flags.DEFINE_string("out", None, "File for a plot of the curves, *.png or *.svg.")

METRIC = "shapes_accuracy"
ATTRIBUTES = ("colour", "shape", "size", "count", "background", "object", "all_correct")
PLOTTED = ("colour", "object")
UNMEASURED = (np.nan, np.nan)  # No caption makes a claim about the attribute.


def run_folder(row, seed):
    return pathlib.Path(FOLDER.value) / row / f"seed_{seed}"


def values_of(row, seed):
    """``{attribute: {step: (accuracy, floor)}}`` of a run; attributes without a claim are empty."""
    values = {attribute: {} for attribute in ATTRIBUTES}
    for record in evaluations(read_metrics(run_folder(row, seed))):
        attribute = record.metric.removeprefix(f"{METRIC}/")
        if attribute in values:
            values[attribute][record.step] = record.value, record.floor
    return values


def run(row, seed, overrides, cores):
    """Trains and measures one cell of the table on given CPU cores.

    Raises:
      UserError: A command failed; its output is in the run's folder.
    """
    folder = run_folder(row, seed)
    folder.mkdir(parents=True, exist_ok=True)
    commands = [
        ["train", f"--config={CONFIG.value}:{row}", f"--config.seed={seed}", *overrides],
        ["evaluate", "--watch", f"--metrics={METRIC}"],
    ]
    for verb, *arguments in commands:
        command = [sys.executable, "-m", f"xmc_jax.{verb}", *arguments, f"--workdir={folder}"]
        log = folder / f"{verb}.log"
        with log.open("a") as output:
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            if cores:
                os.sched_setaffinity(child.pid, cores)
            if child.wait():
                raise UserError(f"{' '.join(command[1:])} failed: see {log}")


def run_all(cells, overrides):
    """Runs cells in parallel; the first failure cancels the others."""
    shares = queue.SimpleQueue()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for job in range(JOBS.value):
        # Two programs with one core each are faster than one after the other with both cores.
        shares.put(cores[job :: JOBS.value] if len(cores) >= JOBS.value > 1 else None)

    def run_with_share(cell):
        share = shares.get()
        try:
            run(*cell, overrides, share)
        finally:
            shares.put(share)
        return cell

    with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
        waiting = [pool.submit(run_with_share, cell) for cell in cells]
        for number, done in enumerate(concurrent.futures.as_completed(waiting), 1):
            if done.exception():
                pool.shutdown(wait=False, cancel_futures=True)
            print(f"{number}/{len(cells)}: {'{}, seed {}'.format(*done.result())}", flush=True)


def describe(measured):
    """``mean ± half-width (floor)``, in percent, of the ``(accuracy, floor)`` of several runs.

    The 95 % interval assumes normally distributed values.
    """
    values, floors = 100 * np.transpose(measured)
    half = np.nan
    if len(values) > 1:
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{values.mean():.1f} ± {half:.1f} ({floors.mean():.0f})"


def print_results(results):
    last = max(step for runs in results.values() for run in runs for step in run[ATTRIBUTES[0]])
    rows = []
    for row, runs in results.items():
        measured = ([run[name].get(last, UNMEASURED) for run in runs] for name in ATTRIBUTES)
        rows.append((f"`{row}`", *map(describe, measured)))
    print(f"step {last}, {SEEDS.value} seeds; percent, mean ± 95 % interval (captions shuffled)")
    measure.print_table(("row", *ATTRIBUTES), rows)


def plot(results, path):
    """Plots accuracy over steps: the mean of the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PLOTTED), figsize=(11, 3.8), layout="constrained")
    for axis, attribute in zip(axes, PLOTTED, strict=True):
        for index, (row, runs) in enumerate(results.items()):
            steps = sorted(runs[0][attribute])
            values = np.array(
                [[run[attribute].get(step, UNMEASURED)[0] for step in steps] for run in runs]
            )
            colour, style = f"C{index}", "-" if row in ablations.TERMS else "--"
            axis.plot(steps, values.mean(0), style, color=colour, marker="o", ms=3, label=row)
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.12, lw=0)
        axis.set(title=f"{METRIC}/{attribute}", xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    figure.savefig(path, dpi=110)


def main(argv):
    if stray := [argument for argument in argv[1:] if not argument.startswith("--config.")]:
        raise app.UsageError(f"unexpected argument {stray[0]!r}")
    known = [*ablations.TERMS, *ablations.OTHERS]
    if wrong := [row for row in ROWS.value if row not in known]:
        raise app.UsageError(f"no row {wrong[0]!r}; there are {', '.join(known)}")
    cells = [(row, seed) for seed in range(SEEDS.value) for row in ROWS.value]
    try:
        run_all(cells, argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    results = {row: [values_of(row, seed) for seed in range(SEEDS.value)] for row in ROWS.value}
    print_results(results)
    if OUT.value:
        plot(results, OUT.value)


if __name__ == "__main__":
    app.run(main)
