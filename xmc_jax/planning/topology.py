"""TPU slices by name, described by the TPU compiler, so that one can compile without a TPU."""

import importlib.util
import math
import os
import re
import sys
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from xmc_jax.errors import UserError, reason

ATTACHED = "attached"

Device = Any  # A jax.Device, or a described device, which has another type.


class Chip(NamedTuple):
    """A generation of TPUs; a JAX device is a whole chip or half of one.

    Attributes:
      device_kind: JAX's name of the device.
      example: Name of a slice.
      pod_size: Chips of the largest slice.
      devices_per_chip: 2 if each of two TensorCores is a device.
      memory_gib: Memory (2^30 bytes) of a device that the compiler lets a program use.
      peak_tflops: 10^12 bfloat16 operations per second of a device, from Google's documentation.
    """

    device_kind: str
    example: str
    pod_size: int
    devices_per_chip: int
    memory_gib: float
    peak_tflops: float


# Memory: from libtpu 0.0.42, which reports it when a program does not fit. Pods and operations:
# from Cloud TPU's pages on v3, v4, v5e, v5p, v6e and TPU7x, which count a whole chip.
CHIPS = {
    "v3": Chip("TPU v3", "v3:4x4", 1024, 2, 15.48, 123 / 2),
    "v4": Chip("TPU v4", "v4:2x2x4", 4096, 1, 30.75, 275),
    "v5e": Chip("TPU v5 lite", "v5e:4x4", 256, 1, 15.75, 197),
    "v5p": Chip("TPU v5", "v5p:2x2x4", 8960, 1, 95.74, 459),
    "v6e": Chip("TPU v6 lite", "v6e:4x4", 256, 1, 31.25, 918),
    "tpu7x": Chip("TPU7x", "tpu7x:2x2x4", 9216, 2, 94.75, 2307 / 2),
}

# With these the compiler does not search for a TPU, prints no warnings about a missing one, and
# runs beside a process that uses one.
_WITHOUT_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_LOAD_LIBRARY": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def find_chip(device: Device) -> Chip | None:
    """The TPU generation of a device; None for other devices."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device.device_kind), None)


def find_devices(topology: str) -> list[Device]:
    """The attached devices, or those of a TPU slice as the TPU compiler describes them.

    After describing a slice, this process computes on the CPU.

    Args:
      topology: ``attached``; or the generation and the chips along each axis, as in ``v4:2x2x4``.

    Raises:
      UserError: no such slice exists, or the TPU compiler is not installed.
    """
    if topology == ATTACHED:
        return jax.devices()
    options = _check_name(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs the TPU compiler, libtpu (0.7 GB; no TPU is needed): "
            f"{sys.executable} -m pip install 'jax[tpu]=={jax.__version__}'"
        )
    os.environ |= _WITHOUT_TPU
    jax.config.update("jax_platforms", "cpu")
    # Programs for described devices cannot be read back (jaxlib 0.10.2).
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except RuntimeError as error:
        raise UserError(f"--topology={topology}: {reason(error)}; {_KNOWN}") from error


_KNOWN = f"slices are written like {', '.join(chip.example for chip in CHIPS.values())}"


def _check_name(name: str) -> dict[str, Any]:
    """Refuses slices that do not exist. Returns the compiler's options for the others."""
    generation, _, layout = name.partition(":")
    chip = CHIPS.get(generation)
    if chip is None or not re.fullmatch(r"[0-9]{1,5}(x[0-9]{1,5})+", layout):
        raise UserError(f"--topology={name} is not a TPU slice; {_KNOWN}")
    sizes = [int(size) for size in layout.split("x")]
    num_axes = chip.example.count("x", chip.example.index(":")) + 1
    if len(sizes) != num_axes:
        raise UserError(f"--topology={name}: {generation} has {num_axes} axes, as {chip.example}")
    num_chips = math.prod(sizes)
    if not 1 <= num_chips <= chip.pod_size:
        raise UserError(f"--topology={name}: {generation} comes as 1 to {chip.pod_size} chips")
    if num_chips > 1 and any(size % 2 for size in sizes[:2]):
        raise UserError(f"--topology={name}: the first two axes must be even, as {chip.example}")
    options = {} if num_chips > 1 else {"chips_per_host_bounds": (1, 1, 1)}
    # Both TensorCores of a chip are one device on v4 and v5p; on v4 only with this option.
    return options | ({"chip_config_name": "megacore"} if generation == "v4" else {})
