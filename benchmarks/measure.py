"""Compiles programs, runs them in turns and prints their costs side by side."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax

from xmc_jax.parallel import startup
from xmc_jax.planning import compiled
from xmc_jax.run.environment import installed_versions

# After a result is ready, the system needs time to take back gigabytes of memory.
_SETTLE_SECONDS = 0.5


class Program(NamedTuple):
    """A compiled function and its cost.

    Attributes:
      name: Title of its column in tables.
      run: The executable.
      compile_seconds: Time of tracing, lowering and compiling.
      megabytes: Peak temporary memory (10^6 bytes), without arguments and results.
      gigaflops: 10^9 floating-point operations of the convolutions and matrix products, without
        products with padding.
    """

    name: str
    run: Callable
    compile_seconds: float
    megabytes: float
    gigaflops: float


def compile_program(name: str, function: Callable, *args: Any, **jit_options: Any) -> Program:
    """Compiles a function for arguments, which may be arrays or their shapes."""
    (program,) = compile_programs({name: function}, *args, **jit_options)
    return program


def compile_programs(
    functions: dict[str, Callable], *args: Any, **jit_options: Any
) -> list[Program]:
    """Compiles named functions of the same arguments at the same time.

    For GPUs and TPUs a compilation takes a minute to half an hour and uses few cores.
    """
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiling = []
        for name, function in functions.items():
            start = time.perf_counter()
            traced = jax.jit(function, **jit_options).trace(*args)
            seconds = time.perf_counter() - start
            compiling.append(pool.submit(_finish_program, name, traced, seconds))
        return [program.result() for program in compiling]


def _finish_program(name: str, traced: jax.stages.Traced, trace_seconds: float) -> Program:
    start = time.perf_counter()
    executable = traced.lower().compile()
    seconds = trace_seconds + time.perf_counter() - start
    instructions = compiled.read_program(executable.as_text())
    flops = sum(i.times * compiled.product_flops(i) for i in instructions)
    megabytes = compiled.measure_memory(executable).temporaries / 1e6
    program = Program(name, executable, seconds, megabytes, flops / 1e9)
    # Shows progress: each of several large programs may take many minutes.
    print(
        f"compiled {name} in {program.compile_seconds:.0f} s: "
        f"{program.megabytes:.0f} MB, {program.gigaflops:.0f} GFLOP",
        file=sys.stderr,
        flush=True,
    )
    return program


def time_in_turns(
    runs: Sequence[Callable[[], Any]], repeats: int, calls_a_turn: int = 1
) -> list[float]:
    """Median seconds per call of each function.

    The functions take turns, so that other load on the machine slows all of them equally.

    Args:
      runs: The functions.
      repeats: Turns of each function.
      calls_a_turn: Calls per turn. With more than one, the host prepares a call while an
        accelerator runs the previous one, as in training.
    """
    for run in runs:
        jax.block_until_ready(run())  # First touch of memory and thread pools.
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, seconds, strict=True):
            time.sleep(_SETTLE_SECONDS)
            start = time.perf_counter()
            for _ in range(calls_a_turn):
                result = run()
            jax.block_until_ready(result)
            own.append((time.perf_counter() - start) / calls_a_turn)
    return [statistics.median(own) for own in seconds]


def print_environment() -> None:
    """Prints devices and versions on one line. Call it before anything touches a device."""
    startup.hide_missing_tpu()
    device = jax.devices()[0]
    versions = installed_versions(("jax", "jaxlib", "flax", "numpy"))
    print(
        f"{len(jax.devices())} x {device.device_kind} ({device.platform}), "
        f"{platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a Markdown table; numbers have four significant digits."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(map(cell, row)) + " |", flush=True)


def print_comparison(ours: Program, released: Program, unit: str, *seconds: float) -> None:
    """Prints the cost of both programs and their ratio.

    Args:
      ours: The library's program.
      released: The baseline's program.
      unit: Unit of the timing: "step", "image".
      *seconds: Seconds per unit of ours and of the baseline; none if they were not run.
    """
    rows = [
        (f"seconds per {unit}", *seconds) if seconds else None,
        ("peak temporary memory, MB", ours.megabytes, released.megabytes),
        ("GFLOP", ours.gigaflops, released.gigaflops),
        ("seconds to compile", ours.compile_seconds, released.compile_seconds),
    ]
    print_table(
        ("", ours.name, released.name, "ratio"),
        [(name, a, b, f"{b / a:.2f}x") for name, a, b in filter(None, rows)],
    )
