"""Compiles programs, runs them in turns and prints them side by side."""

import importlib.metadata
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import jaxprs_in_params

from xmc_jax import topology

# Gigabytes of the other side's memory go back to the system after its result is there.
_SETTLE_SECONDS = 0.5


class Program(NamedTuple):
    """A compiled function and what the compiler says of it.

    Attributes:
      name: Its column in tables.
      run: The executable.
      compile_seconds: Tracing, lowering and compiling.
      megabytes: Peak temporary memory (10^6 bytes), beyond arguments and results.
      gigaflops: 10^9 floating-point operations, by the compiler's count; bodies of loops, which it
        counts once, count as often as they run.
    """

    name: str
    run: Callable
    compile_seconds: float
    megabytes: float
    gigaflops: float


def compile_program(name: str, function: Callable, *args: Any, **jit_options: Any) -> Program:
    """Compiles `function` for arguments like `args`, arrays or their shapes."""
    start = time.perf_counter()
    traced = jax.jit(function, **jit_options).trace(*args)
    lowered = traced.lower()
    compiled = lowered.compile()
    program = Program(
        name=name,
        run=compiled,
        compile_seconds=time.perf_counter() - start,
        megabytes=compiled.memory_analysis().temp_size_in_bytes / 1e6,
        gigaflops=_count_flops(traced, lowered, compiled) / 1e9,
    )
    # Of large programs each may take many minutes.
    print(
        f"compiled {name} in {program.compile_seconds:.0f} s: "
        f"{program.megabytes:.0f} MB, {program.gigaflops:.0f} GFLOP",
        file=sys.stderr,
        flush=True,
    )
    return program


def _count_flops(
    traced: jax.stages.Traced, lowered: jax.stages.Lowered, compiled: jax.stages.Compiled
) -> float:
    # Of the program as it is given to the compiler: compiled for GPUs, its convolutions and
    # products are calls of libraries, which the compiler does not count. For devices that are not
    # there the count comes after compilation only; the two are within one percent.
    cost = lowered.cost_analysis() or compiled.cost_analysis()
    device = min(jax.tree.leaves(compiled.input_shardings)[0].device_set, key=lambda d: d.id)
    return cost["flops"] + _repeated_flops(traced.jaxpr.jaxpr, device.platform)


def _repeated_flops(jaxpr: Any, platform: str) -> int:
    """Operations of matrix products in all turns of loops but the first."""
    total = 0
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        if platforms := equation.params.get("branches_platforms"):
            named = [i for i, names in enumerate(platforms) if names and platform in names]
            inner = [inner[named[0] if named else platforms.index(None)]]
        total += sum(_repeated_flops(jaxpr, platform) for jaxpr in inner)
        if equation.primitive.name == "scan":
            total += (equation.params["length"] - 1) * sum(map(_product_flops, inner))
    return total


def _product_flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        total += sum(map(_product_flops, jaxprs_in_params(equation.params)))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = math.prod(equation.outvars[0].aval.shape)
            total += 2 * out * math.prod(left[axis] for axis in contracted)
    return total


def time_in_turns(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each: they take turns, so that a busy machine slows all of them alike."""
    for run in runs:
        jax.block_until_ready(run())  # First touch of memory and thread pools.
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, seconds, strict=True):
            time.sleep(_SETTLE_SECONDS)
            start = time.perf_counter()
            jax.block_until_ready(run())
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in seconds]


def print_environment() -> None:
    """One line: devices and versions. To be called before anything touches a device."""
    topology.hide_missing_tpu()
    device = jax.devices()[0]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "numpy")
    )
    print(
        f"{len(jax.devices())} x {device.device_kind} ({device.platform}), "
        f"{platform.machine()}, Python {platform.python_version()}, {versions}"
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Markdown, numbers to four figures."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(map(cell, row)) + " |", flush=True)


def print_comparison(ours: Program, released: Program, unit: str, *seconds: float) -> None:
    """Both programs and how many times better ours is.

    Args:
      ours: The library's.
      released: The baseline's.
      unit: What `seconds` are for: "step", "image".
      *seconds: Of ours and the baseline, or nothing if they were not run.
    """
    rows = [
        (f"seconds a {unit}", *seconds) if seconds else None,
        ("peak temporary memory, MB", ours.megabytes, released.megabytes),
        ("GFLOP", ours.gigaflops, released.gigaflops),
        ("seconds to compile", ours.compile_seconds, released.compile_seconds),
    ]
    print_table(
        ("", ours.name, released.name, "ratio"),
        [(name, a, b, f"{b / a:.2f}x") for name, a, b in filter(None, rows)],
    )
