"""Plans: the cost of a training step on devices that need not exist; compiles it, never runs it."""

import dataclasses
import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from xmc_jax.console import waiting
from xmc_jax.errors import UserError
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.frozen.weights import is_weight
from xmc_jax.pages import render
from xmc_jax.planning import compiled
from xmc_jax.planning.topology import ATTACHED, Device, find_chip, find_devices
from xmc_jax.run.versions import installed_versions

_NUM_LARGEST = 10
_HOW_TO_FIT = (
    "use a smaller config.batch_size, more chips, --fsdp, config.remat=blocks or "
    "config.accumulation_steps"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of one training step; bytes and operations are per device.

    Attributes (those that their names do not explain):
      topology: Name of the TPU slice, or ``attached``.
      device_kind: JAX's name of the devices.
      num_chips: TPU chips, each of which is one device or two; for other devices their number.
      fsdp: Number of devices that share one copy of the parameters.
      batch_size: Images of a micro-batch; they are split over all devices.
      num_micro_batches: Micro-batches of a step.
      parameters: Number of parameters by network.
      memory: Bytes that the step occupies, see `compiled.Memory`, and their ``total``.
      memory_limit: Bytes that a program may occupy; None if unknown.
      peak_flops: Peak bfloat16 operations per second; None if unknown.
      floor_seconds: ``flops / peak_flops``, a lower bound of the step's time.
      collective_bytes: Bytes of the results of each kind of collective.
      compile_seconds: Time of tracing, lowering and compiling on this machine.
      versions: Versions of JAX and of the compilers.
    """

    topology: str
    device_kind: str
    num_chips: int
    num_devices: int
    fsdp: int
    batch_size: int
    num_micro_batches: int
    parameters: dict[str, int]
    memory: dict[str, int]
    memory_limit: int | None
    flops: float
    peak_flops: float | None
    floor_seconds: float | None
    collective_bytes: dict[str, int]
    largest_collectives: list[compiled.Buffer]
    largest_buffers: list[compiled.Buffer]
    compile_seconds: float
    versions: dict[str, str]
    config: dict[str, Any]


class DoesNotFitError(UserError):
    """The step needs more memory than a device has."""


def make_plan(config: ConfigDict, topology: str = ATTACHED, *, fsdp: int = 1) -> Plan:
    """Compiles the training step of an experiment and measures its cost.

    Args:
      config: A resolved experiment.
      topology: As in `topology.find_devices`.
      fsdp: Number of devices that share one copy of the parameters.

    Raises:
      UserError: the experiment, the slice or their combination is invalid.
      DoesNotFitError: the step needs more memory than a device has.
    """
    devices = find_devices(topology)
    experiment = create_experiment(config, fsdp=fsdp, devices=devices)
    started = time.monotonic()
    step = _compile_step(experiment, devices)
    seconds = time.monotonic() - started
    memory, limit = compiled.measure_memory(step), _memory_limit(devices[0])
    if limit is not None and memory.total > limit:
        raise _does_not_fit(memory.total, limit, devices[0])

    program = compiled.read_program(step.as_text())
    flops, chip = compiled.count_flops(step, program), find_chip(devices[0])
    peak = chip.peak_tflops * 1e12 if chip else None
    return Plan(
        topology=topology,
        device_kind=devices[0].device_kind,
        num_chips=len(devices) // (chip.devices_per_chip if chip else 1),
        num_devices=len(devices),
        fsdp=fsdp,
        batch_size=config.batch_size,
        num_micro_batches=config.d_steps,
        parameters=_count_parameters(experiment),
        memory=memory._asdict() | {"total": memory.total},
        memory_limit=limit,
        flops=flops,
        peak_flops=peak,
        floor_seconds=flops / peak if peak else None,
        collective_bytes=compiled.collective_bytes(program),
        largest_collectives=compiled.largest_collectives(program, _NUM_LARGEST),
        largest_buffers=compiled.largest_buffers(program, _NUM_LARGEST),
        compile_seconds=seconds,
        versions=installed_versions(("jax", "jaxlib", "libtpu")),
        config=config.to_dict(),
    )


def find_largest_batch(config: ConfigDict, topology: str = ATTACHED, *, fsdp: int = 1) -> Plan:
    """The plan of the largest global batch that fits; prints every attempt on stderr.

    Starts at the config's batch size, doubles it while it fits, then bisects. Every attempt
    compiles the step. Batch sizes are multiples of what devices, accumulation and groups divide.
    Arguments as in `make_plan`.

    Raises:
      UserError: see `make_plan`; or the memory of the devices is unknown.
      DoesNotFitError: not even the smallest batch fits.
    """
    tell = functools.partial(print, file=sys.stderr, flush=True)
    devices = find_devices(topology)
    if _memory_limit(devices[0]) is None:
        raise UserError(
            f"the memory of a {devices[0].device_kind!r} device is unknown; name a TPU slice, "
            "e.g. --topology=v4:2x2x4"
        )
    bn_group_size = config.model.bn_group_size * config.accumulation_steps  # It divides a part.
    groups = config.loss.contrastive_group_size, bn_group_size
    unit = math.lcm(len(devices) * config.accumulation_steps, *filter(None, groups))
    tell(f"searching for the largest batch in steps of {unit}; every attempt is a compilation")
    fitting: dict[int, Plan] = {}

    def fits(batch_size: int) -> bool:
        changed = config.copy_and_resolve_references()
        changed.batch_size = batch_size
        try:
            plan = fitting[batch_size] = make_plan(changed, topology, fsdp=fsdp)
        except DoesNotFitError as error:
            tell(f"batch {batch_size} does not fit: {error}")
            return False
        total, limit = plan.memory["total"] / 1e9, plan.memory_limit / 1e9
        tell(f"batch {batch_size} fits: {total:.2f} of {limit:.2f} GB")
        return True

    largest = largest_multiple(fits, unit, first=config.batch_size)
    if not largest:
        raise DoesNotFitError(f"not even a batch of {unit} fits; {_HOW_TO_FIT}")
    return fitting[largest]


def largest_multiple(fits: Callable[[int], bool], unit: int, *, first: int) -> int:
    """The largest multiple of a unit that fits; 0 if none does.

    Args:
      fits: Whether a number fits; if it does, all smaller ones do. Called once for each number.
      unit: Only its multiples are tried.
      first: Where the search starts, approximately.
    """
    low, high = 0, max(first // unit, 1)
    while fits(high * unit):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle)
    return low * unit


def to_json(plan: Plan) -> str:
    """The plan as JSON; buffers are objects with the fields of `compiled.Buffer`."""
    return json.dumps(dataclasses.asdict(plan), indent=2)


def to_text(plan: Plan) -> str:
    """The plan as a table for people."""
    return render.render("plan.txt.jinja", plan=plan).rstrip()


def _compile_step(experiment: Experiment, devices: Sequence[Device]) -> jax.stages.Compiled:
    kind, arguments = devices[0].device_kind, experiment.abstract_step_arguments()
    batch_size = experiment.config.batch_size
    try:
        with waiting(f"compiling a step of batch {batch_size} for {len(devices)} x {kind}"):
            return experiment.jit_train_step().lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = re.search(r"\(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", str(error))
        if sizes is None:
            raise
        needed, limit = (float(gibibytes) * 2**30 for gibibytes in sizes.groups())
        raise _does_not_fit(needed, limit, devices[0]) from error


def _does_not_fit(needed: float, limit: float, device: Device) -> DoesNotFitError:
    return DoesNotFitError(
        f"the step needs {needed / 1e9:.2f} GB of memory on each {device.device_kind} device, "
        f"which has {limit / 1e9:.2f}; {_HOW_TO_FIT}"
    )


def _memory_limit(device: Device) -> int | None:
    """Bytes of a device's memory that a program may occupy; None if unknown."""
    if chip := find_chip(device):
        return round(chip.memory_gib * 2**30)
    return (device.memory_stats() or {}).get("bytes_limit")


def _count_parameters(experiment: Experiment) -> dict[str, int]:
    state, frozen = experiment.abstract_state(), experiment.frozen
    networks = {
        "generator": state.generator,
        "discriminator": state.discriminator,
        "text encoder": frozen.text,
        "image network": frozen.image,
    }
    return {
        name: sum(x.size for x in jax.tree.leaves(params) if is_weight(x))
        for name, params in networks.items()
    }
