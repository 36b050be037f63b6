"""What a compiled program costs a device: memory, arithmetic, traffic, its largest buffers.

Read from what XLA says of an executable and from the text of its optimised program, which is the
program of one device. Nothing is run, so the device need not be there.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

# Instructions that give a name to what is there already, or write nothing to memory.
_NO_BUFFER = {"bitcast", "conditional", "get-tuple-element", "parameter", "tuple", "while"}
# Which of operands and result are a convolution's input, kernel and output, in the calls of cuDNN.
_CUDNN_ROLES = {"Forward": (0, 1, -1), "BackwardInput": (-1, 1, 0), "BackwardFilter": (0, -1, 1)}

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations)="
    r"(\{[^}]*\}|[%\w.-]+)"
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")


class _Line(NamedTuple):
    """An instruction as it is written: ``name = result op(rest``."""

    name: str
    result: str
    op: str
    rest: str


class Memory(NamedTuple):
    """Bytes of a device's memory that a program occupies while it runs.

    Attributes:
      arguments: What it is given.
      temporaries: What it needs besides, at its worst moment.
      outputs: Its results.
      aliased: Results that take the place of arguments.
      code: The program itself; 0 where it lives elsewhere.
    """

    arguments: int
    temporaries: int
    outputs: int
    aliased: int
    code: int

    @property
    def total(self) -> int:
        """All of it, results in the place of arguments counted once."""
        return self.arguments + self.temporaries + self.outputs - self.aliased + self.code


class Instruction(NamedTuple):
    """A line of an optimised program.

    Attributes:
      op: Its kind, such as ``all-reduce``.
      result: Type of the result, with its layout: ``f32[8,128]{1,0:T(8,128)}``; tuples in brackets.
      operands: Types of the operands.
      attributes: The rest of the line.
      times: How often it runs in one run of the program.
      is_fused: Whether it is a part of another instruction, and writes nothing itself.
    """

    op: str
    result: str
    operands: tuple[str, ...]
    attributes: str
    times: int
    is_fused: bool


class Buffer(NamedTuple):
    """An array that a program makes, or several alike.

    Attributes:
      num_bytes: Size of one; in main memory, padding included.
      shape: Element type and shape: ``bf16[8,256,256,96]``.
      op: The kind of instruction that writes it.
      name: The path of that instruction in the source, empty if the compiler made it up.
      count: How many there are alike in one run, not all at the same time.
    """

    num_bytes: int
    shape: str
    op: str
    name: str
    count: int


def measure_memory(executable: jax.stages.Compiled) -> Memory:
    """What the compiler says of a program's memory."""
    stats = executable.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def read_program(text: str) -> list[Instruction]:
    """The instructions of a program that ever run.

    Args:
      text: Of an optimised program, as ``executable.as_text()`` gives it.
    """
    entry, computations = _split(text)
    times: Counter[str] = Counter()
    fused = set()

    def visit(name: str, turns: int, is_fused: bool) -> None:
        times[name] += turns
        if is_fused:
            fused.add(name)
        for line in computations[name]:
            called = {
                kind: re.findall(r"[\w.-]+", names) for kind, names in _CALLED.findall(line.rest)
            }
            inner = turns
            if line.op == "while":
                inner *= _num_turns(line, computations[called["condition"][0]])
            for kind, names in called.items():
                if kind == "to_apply" and line.op != "call":
                    continue  # A function of scalars: how to add, how to compare.
                for callee in names:
                    visit(callee, inner, is_fused or line.op in ("fusion", "async-start"))

    visit(entry, 1, False)
    return [
        instruction
        for name, count in times.items()
        for instruction in _resolve(computations[name], count, name in fused)
    ]


def count_flops(executable: jax.stages.Compiled, program: list[Instruction]) -> float:
    """Floating-point operations of one run.

    The compiler's count, and what it leaves out: all turns of loops but the first, and calls of
    libraries; of these, matrix products and convolutions are counted.

    Args:
      executable: What was compiled.
      program: Its instructions, see `read_program`.
    """
    count = executable.cost_analysis()["flops"]
    for instruction in program:
        counted = 0 if instruction.op == "custom-call" else 1
        if instruction.times > counted:
            count += (instruction.times - counted) * product_flops(instruction)
    return count


def product_flops(instruction: Instruction) -> int:
    """Operations of one matrix product or convolution; 0 of anything else."""
    attributes = instruction.attributes
    if instruction.op == "convolution":
        return _convolution_flops(instruction, (0, 1, -1))
    if roles := re.search(r'custom_call_target="__cudnn\$conv([A-Z]\w*)"', attributes):
        return _convolution_flops(instruction, _CUDNN_ROLES.get(roles[1], (0, 1, -1)))
    if instruction.op == "dot" or '"__cublas$' in attributes:
        contracted = re.search(r'lhs_contracting_dim\w*"?[=:][{[]([\d,"]*)', attributes)
        left, out = (_dimensions(x) for x in (instruction.operands[0], instruction.result))
        axes = _integers(contracted[1].replace('"', ""))
        return 2 * math.prod(out) * math.prod(left[axis] for axis in axes)
    return 0


def collective_bytes(program: list[Instruction]) -> dict[str, int]:
    """Bytes of the results of each kind of collective in one run, kinds in alphabetical order."""
    totals: Counter[str] = Counter()
    for instruction in program:
        if kind := _collective(instruction):
            totals[kind] += instruction.times * _num_bytes(instruction.result)
    return dict(sorted(totals.items()))


def largest_collectives(program: list[Instruction], count: int) -> list[Buffer]:
    """The largest arrays that collectives give; where one gives several, each counts by itself."""
    return _largest(filter(_collective, program), count)


def largest_buffers(program: list[Instruction], count: int) -> list[Buffer]:
    """The largest arrays that are written to the device's main memory otherwise.

    Arguments are not among them, nor what stays in a fast memory beside the cores.
    """

    def is_written(instruction: Instruction) -> bool:
        return not (
            instruction.is_fused
            or instruction.op in _NO_BUFFER
            or instruction.op.endswith("-start")
            or _collective(instruction)
        )

    return _largest(filter(is_written, program), count, in_main_memory=True)


def _collective(instruction: Instruction) -> str | None:
    """The kind of a collective, where it gives its result; None of any other instruction."""
    kind = instruction.op.removesuffix("-done")
    return kind if kind in COLLECTIVES else None


def _largest(
    instructions: Iterable[Instruction], count: int, *, in_main_memory: bool = False
) -> list[Buffer]:
    alike: Counter[tuple] = Counter()
    for instruction in instructions:
        path = re.search(r'op_name="([^"]*)"', instruction.attributes)
        op, name = instruction.op.removesuffix("-done"), path[1] if path else ""
        for dtype, shape, layout in _ARRAY.findall(instruction.result):
            if in_main_memory and re.search(r"S\([1-9]", layout):
                continue
            sizes = _integers(shape)
            size = _array_bytes(dtype, _padded(sizes, layout) if in_main_memory else sizes)
            alike[size, f"{dtype}[{shape}]", op, name] += instruction.times
    return [Buffer(*buffer, alike[buffer]) for buffer in sorted(alike, reverse=True)[:count]]


def _split(text: str) -> tuple[str, dict[str, list[_Line]]]:
    """The entry's name, and the lines of every computation."""
    entry, computations = "", {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            lines.append(_Line(*instruction.groups()))
    return entry, computations


def _num_turns(loop: _Line, condition: list[_Line]) -> int:
    """How often a loop turns: as the compiler notes it, or the one bound of its counter, or 1."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
        return int(noted[1])
    integers = [
        re.match(r"\d+", line.rest)
        for line in condition
        if line.op == "constant" and re.match(r"[su](32|64)\[\]", line.result)
    ]
    return int(integers[0][0]) if len(integers) == 1 and integers[0] else 1


def _resolve(lines: list[_Line], times: int, is_fused: bool) -> Iterator[Instruction]:
    results = {line.name: line.result for line in lines}
    for line in lines:
        # Constants and parameters have values and numbers in the place of operands.
        names = re.findall(r"[\w.-]+", line.rest.partition(")")[0])
        operands = tuple(results[name] for name in names if name in results)
        yield Instruction(line.op, line.result, operands, line.rest, times, is_fused)


def _convolution_flops(instruction: Instruction, roles: tuple[int, int, int]) -> int:
    """Operations on real positions alone: not on padding, nor on the zeros of dilation."""
    arrays = *instruction.operands[:2], instruction.result
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes).groups()
    source, kernel, out = (
        dict(zip(names, _dimensions(arrays[role]), strict=False))
        for names, role in zip(labels, roles, strict=True)
    )
    total = 2 * out["b"] * out["f"] * kernel["i"]
    for axis, (stride, low, dilation, kernel_dilation) in _windows(instruction.attributes).items():
        total *= sum(
            position % dilation == 0 and 0 <= position // dilation < source[axis]
            for tap in range(kernel[axis])
            for position in range(
                tap * kernel_dilation - low,
                tap * kernel_dilation - low + out[axis] * stride,
                stride,
            )
        )
    return total


def _windows(attributes: str) -> dict[str, tuple[int, int, int, int]]:
    """For each spatial axis: stride, padding before it, dilation of the input and of the kernel."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    num_axes = len(fields["size"].split("x")) if fields else 0

    def read(field: str, default: int) -> list[int]:
        values = fields[field].split("x") if field in fields else [str(default)] * num_axes
        return [int(value.partition("_")[0]) for value in values]

    rows = zip(
        read("stride", 1), read("pad", 0), read("lhs_dilate", 1), read("rhs_dilate", 1), strict=True
    )
    return {str(axis): row for axis, row in enumerate(rows)}


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _dimensions(array: str) -> list[int]:
    return _integers(_ARRAY.search(array)[2])


def _num_bytes(result: str) -> int:
    return sum(_array_bytes(dtype, _integers(shape)) for dtype, shape, _ in _ARRAY.findall(result))


def _array_bytes(dtype: str, shape: list[int]) -> int:
    # The first number in `bf16` or `f8e4m3fn` is its bits; a `token` has no size.
    number = re.search(r"\d+", dtype)
    bits = 8 if dtype == "pred" else int(number[0]) if number else 0
    return -(-math.prod(shape) * bits // 8)


def _padded(shape: list[int], layout: str) -> list[int]:
    """The shape in memory, from the slowest axis on, filled up to whole tiles."""
    order = _integers(layout.partition(":")[0])
    physical = [shape[axis] for axis in reversed(order)] or shape
    if tile := re.search(r"T\(([\d,]+)\)", layout):
        sizes = _integers(tile[1])
        physical = [1] * (len(sizes) - len(physical)) + physical
        for axis, size in enumerate(reversed(sizes), start=1):
            physical[-axis] = -(-physical[-axis] // size) * size
    return physical
