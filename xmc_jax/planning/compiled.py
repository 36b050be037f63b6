"""The cost of a compiled program on a device: memory, arithmetic, communication, largest buffers.

The numbers come from XLA's analysis of an executable and from the text of its optimised program,
which is the program of one device. Nothing is run, so the device need not exist.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

_COLLECTIVES = {"all-gather", "all-reduce", "all-to-all", "ragged-all-to-all", "reduce-scatter"}
_COLLECTIVES |= {"collective-broadcast", "collective-permute"}
# Instructions that write nothing to memory; their results are views of existing arrays.
_NO_BUFFER = {"bitcast", "conditional", "get-tuple-element", "parameter", "tuple", "while"}
# In cuDNN calls: which of the operands (0, 1) and the result (-1) are a convolution's input, kernel
# and output.
_CUDNN_ROLES = {"Forward": (0, 1, -1), "BackwardInput": (-1, 1, 0), "BackwardFilter": (0, -1, 1)}

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations)="
    r"(\{[^}]*\}|[%\w.-]+)"
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")


class _Line(NamedTuple):
    """A line of the program's text: ``name = result op(rest``."""

    name: str
    result: str
    op: str
    rest: str


class Memory(NamedTuple):
    """Bytes of a device's memory that a program occupies while it runs.

    ``temporaries`` is the peak of temporary arrays; ``aliased`` are outputs that are stored in
    place of arguments; ``code`` is the program itself, 0 where it is not in the device's memory.
    """

    arguments: int
    temporaries: int
    outputs: int
    aliased: int
    code: int

    @property
    def total(self) -> int:
        """The sum; results in place of arguments count once."""
        return self.arguments + self.temporaries + self.outputs - self.aliased + self.code


class Instruction(NamedTuple):
    """An instruction of a program.

    Attributes:
      op: Operation, such as ``all-reduce``.
      result: Type and layout of the result: ``f32[8,128]{1,0:T(8,128)}``; tuples in brackets.
      operands: Types of the operands.
      attributes: The rest of the line.
      name: Path of the operation in the source; empty if the compiler inserted it.
      times: How often one run of the program executes it here; a function that is called in
        several places has its instructions at each of them.
      is_fused: Whether it is part of another instruction and writes nothing to memory itself.
    """

    op: str
    result: str
    operands: tuple[str, ...]
    attributes: str
    name: str
    times: int
    is_fused: bool


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One or several equal arrays that a program writes.

    Attributes:
      num_bytes: Size of one array; in main memory including padding.
      shape: Element type and shape: ``bf16[8,256,256,96]``.
      op: Operation that writes it.
      name: Path of that operation in the source; empty if the compiler inserted it.
      count: Number of such arrays in one run; they need not exist at the same time.
    """

    num_bytes: int
    shape: str
    op: str
    name: str
    count: int


def measure_memory(executable: jax.stages.Compiled) -> Memory:
    """The compiler's analysis of a program's memory."""
    stats = executable.memory_analysis()
    kinds = ("argument", "temp", "output", "alias", "generated_code")  # In the order of `Memory`.
    return Memory(*(getattr(stats, f"{kind}_size_in_bytes") for kind in kinds))


def read_program(text: str) -> list[Instruction]:
    """The instructions that a program executes.

    Args:
      text: An HLO program: ``executable.as_text()``, or ``lowered.as_text("hlo", debug_info=True)``
        of a program before optimisation.
    """
    entry, computations = _split(text)

    def visit(name: str, times: int, is_fused: bool, caller: str) -> Iterator[Instruction]:
        results = {line.name: line.result for line in computations[name]}
        for line in computations[name]:
            # Constants and parameters have values and numbers in place of operands.
            names = re.findall(r"[\w.-]+", line.rest.partition(")")[0])
            operands = tuple(results[name] for name in names if name in results)
            path = _path(line.rest, caller)
            yield Instruction(line.op, line.result, operands, line.rest, path, times, is_fused)
            called = {kind: re.findall(r"[\w.-]+", x) for kind, x in _CALLED.findall(line.rest)}
            if line.op != "call":
                called.pop("to_apply", None)  # Of scalars, such as an addition or a comparison.
            turns = times
            if line.op == "while":
                turns *= _num_turns(line, computations[called["condition"][0]])
            fuses = is_fused or line.op in ("fusion", "async-start")
            for callee in itertools.chain.from_iterable(called.values()):
                yield from visit(callee, turns, fuses, path)

    return list(visit(entry, 1, False, ""))


def count_flops(executable: jax.stages.Compiled, program: list[Instruction]) -> float:
    """Floating-point operations of one run.

    The compiler's count plus the matrix products and convolutions that it leaves out: those in
    iterations of loops after the first, and those in calls of libraries.
    """
    count = executable.cost_analysis()["flops"]
    for instruction in program:
        counted = 0 if instruction.op == "custom-call" else 1
        if instruction.times > counted:
            count += (instruction.times - counted) * product_flops(instruction)
    return count


def product_flops(instruction: Instruction) -> int:
    """Operations of one execution of a matrix product or convolution; 0 for other instructions."""
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
    """Bytes of the results of each kind of collective in one run, sorted by kind."""
    totals: Counter[str] = Counter()
    for instruction in program:
        if kind := _collective(instruction):
            totals[kind] += instruction.times * array_bytes(instruction.result)
    return dict(sorted(totals.items()))


def largest_collectives(program: list[Instruction], count: int) -> list[Buffer]:
    """The largest results of collectives; several results of one collective count separately."""
    return _largest(filter(_collective, program), count)


def largest_buffers(program: list[Instruction], count: int) -> list[Buffer]:
    """The largest arrays that other instructions write to the device's main memory.

    Excludes arguments and arrays in the fast memory beside the cores.
    """
    written = (i for i in program if not (i.is_fused or i.op in _NO_BUFFER or _collective(i)))
    complete = (i for i in written if not i.op.endswith("-start"))
    return _largest(complete, count, in_main_memory=True)


def _collective(instruction: Instruction) -> str | None:
    """The kind of a collective at the instruction with its result; None for other instructions."""
    kind = instruction.op.removesuffix("-done")
    return kind if kind in _COLLECTIVES else None


def _largest(
    instructions: Iterable[Instruction], count: int, *, in_main_memory: bool = False
) -> list[Buffer]:
    alike: Counter[tuple] = Counter()
    for instruction in instructions:
        op = instruction.op.removesuffix("-done")
        for dtype, shape, layout in _ARRAY.findall(instruction.result):
            if in_main_memory and re.search(r"S\([1-9]", layout):
                continue
            sizes = _integers(shape)
            size = _num_bytes(dtype, _padded(sizes, layout) if in_main_memory else sizes)
            alike[size, f"{dtype}[{shape}]", op, instruction.name] += instruction.times
    return [Buffer(*buffer, alike[buffer]) for buffer in sorted(alike, reverse=True)[:count]]


def _split(text: str) -> tuple[str, dict[str, list[_Line]]]:
    """The name of the entry computation, and the lines of every computation."""
    entry, computations = "", {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            lines.append(_Line(*instruction.groups()))
    return entry, computations


def _num_turns(loop: _Line, condition: list[_Line]) -> int:
    """Number of iterations: the compiler's note, else the only bound of the counter, else 1."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
        return int(noted[1])
    integers = [
        re.match(r"\d+", line.rest)
        for line in condition
        if line.op == "constant" and re.match(r"[su](32|64)\[\]", line.result)
    ]
    return int(integers[0][0]) if len(integers) == 1 and integers[0] else 1


def _path(attributes: str, caller: str) -> str:
    """The path of an operation, which in a called function may be relative to its caller's."""
    found = re.search(r'op_name="([^"]*)"', attributes)
    path = found[1] if found else ""
    return f"{caller}/{path}" if caller and path and not path.startswith("jit(") else path


def _convolution_flops(instruction: Instruction, roles: tuple[int, int, int]) -> int:
    """Operations on image positions only, not on padding or on the zeros of dilation."""
    arrays = *instruction.operands[:2], instruction.result
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes).groups()
    source, kernel, out = (
        dict(zip(names, _dimensions(arrays[role]), strict=False))
        for names, role in zip(labels, roles, strict=True)
    )
    total = 2 * out["b"] * out["f"] * kernel["i"]
    for axis, (stride, low, dilation, kernel_dilation) in _windows(instruction.attributes).items():
        taps = kernel_dilation * np.arange(kernel[axis]) - low
        positions = np.add.outer(taps, stride * np.arange(out[axis]))
        is_pixel = (positions >= 0) & (positions < dilation * source[axis])
        total *= int(np.sum(is_pixel & (positions % dilation == 0)))
    return total


def _windows(attributes: str) -> dict[str, tuple[int, int, int, int]]:
    """For each spatial axis: stride, leading padding, dilation of the input and of the kernel."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    num_axes = len(fields["size"].split("x")) if fields else 0
    columns = []
    for name, default in (("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1)):
        values = fields[name].split("x") if name in fields else [str(default)] * num_axes
        columns.append([int(value.partition("_")[0]) for value in values])
    return {str(axis): row for axis, row in enumerate(zip(*columns, strict=True))}


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _dimensions(array: str) -> list[int]:
    return _integers(_ARRAY.search(array)[2])


def array_bytes(array: str) -> int:
    """Bytes of an array of a type such as ``f32[8,4]{1,0}``, or of a tuple of them."""
    return sum(_num_bytes(dtype, _integers(shape)) for dtype, shape, _ in _ARRAY.findall(array))


def _num_bytes(dtype: str, shape: list[int]) -> int:
    # The first number in `bf16` or `f8e4m3fn` is its bits; a `token` has no size.
    number = re.search(r"\d+", dtype)
    bits = 8 if dtype == "pred" else int(number[0]) if number else 0
    return -(-math.prod(shape) * bits // 8)


def _padded(shape: list[int], layout: str) -> list[int]:
    """The shape in memory, slowest axis first, padded to whole tiles."""
    order = _integers(layout.partition(":")[0])
    physical = [shape[axis] for axis in reversed(order)] or shape
    if tile := re.search(r"T\(([\d,]+)\)", layout):
        sizes = _integers(tile[1])
        physical = [1] * (len(sizes) - len(physical)) + physical
        for axis, size in enumerate(reversed(sizes), start=1):
            physical[-axis] = -(-physical[-axis] // size) * size
    return physical
