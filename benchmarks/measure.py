"""Compiles programs, runs them in turns and prints them side by side."""

import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval

from xmc_jax.parallel import startup

# Gigabytes of the other side's memory go back to the system after its result is there.
_SETTLE_SECONDS = 0.5


class Program(NamedTuple):
    """A compiled function and what the compiler says of it.

    Attributes:
      name: Its column in tables.
      run: The executable.
      compile_seconds: Tracing, lowering and compiling.
      megabytes: Peak temporary memory (10^6 bytes), beyond arguments and results.
      gigaflops: 10^9 floating-point operations of its convolutions and matrix products.
    """

    name: str
    run: Callable
    compile_seconds: float
    megabytes: float
    gigaflops: float


def compile_program(name: str, function: Callable, *args: Any, **jit_options: Any) -> Program:
    """Compiles `function` for arguments like `args`, arrays or their shapes."""
    (program,) = compile_programs({name: function}, *args, **jit_options)
    return program


def compile_programs(
    functions: dict[str, Callable], *args: Any, **jit_options: Any
) -> list[Program]:
    """Compiles named functions of the same arguments, side by side.

    For GPUs and TPUs it takes a minute to half an hour, most of it on a few of many cores.
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
    compiled = traced.lower().compile()
    devices = jax.tree.leaves(compiled.input_shardings)[0].device_set
    (platform,) = {device.platform for device in devices}
    platform = {"gpu": "cuda"}.get(platform, platform)
    program = Program(
        name=name,
        run=compiled,
        compile_seconds=trace_seconds + time.perf_counter() - start,
        megabytes=compiled.memory_analysis().temp_size_in_bytes / 1e6,
        gigaflops=_count_flops(_without_dead_code(traced.jaxpr.jaxpr), platform) / 1e9,
    )
    # Of large programs each may take many minutes.
    print(
        f"compiled {name} in {program.compile_seconds:.0f} s: "
        f"{program.megabytes:.0f} MB, {program.gigaflops:.0f} GFLOP",
        file=sys.stderr,
        flush=True,
    )
    return program


def _without_dead_code(jaxpr: Any) -> Any:
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _count_flops(jaxpr: Any, platform: str) -> int:
    """Operations of convolutions and matrix products, two for each multiplication.

    Of the program as it is given to the compiler: GPUs' counts no call of a library, and no
    compiler counts the turns of a loop.
    """
    total = 0
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        if platforms := equation.params.get("branches_platforms"):
            named = [i for i, names in enumerate(platforms) if names and platform in names]
            inner = [inner[named[0] if named else platforms.index(None)]]
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += repeats * sum(_count_flops(jaxpr, platform) for jaxpr in inner)
        total += count_operations(equation)
    return total


def count_operations(equation: Any) -> int:
    """Of a convolution or matrix product in a jaxpr; 0 of anything else."""
    terms = _TERMS.get(equation.primitive.name)
    if terms is None:
        return 0
    out = math.prod(equation.outvars[0].aval.shape)
    return round(2 * out * terms(*equation.invars, equation.params))


def _terms_of_product(left: Any, right: Any, params: dict[str, Any]) -> int:
    (contracted, _), _ = params["dimension_numbers"]
    return math.prod(left.aval.shape[axis] for axis in contracted)


def _terms_of_convolution(x: Any, kernel: Any, params: dict[str, Any]) -> float:
    """Products at a position; those with zeros that stand between pixels are none."""
    _, channels, *sides = (kernel.aval.shape[i] for i in params["dimension_numbers"].rhs_spec)
    return channels * math.prod(sides) / math.prod(params["lhs_dilation"])


_TERMS = {"dot_general": _terms_of_product, "conv_general_dilated": _terms_of_convolution}


def time_in_turns(
    runs: Sequence[Callable[[], Any]], repeats: int, calls_a_turn: int = 1
) -> list[float]:
    """Median seconds a call of each: they take turns, so that a busy machine slows all alike.

    Args:
      runs: What is measured.
      repeats: Turns of each.
      calls_a_turn: Calls before the clock is looked at. More than one lets the host prepare a call
        while an accelerator is at the one before, as a training does.
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
    """One line: devices and versions. To be called before anything touches a device."""
    startup.hide_missing_tpu()
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
