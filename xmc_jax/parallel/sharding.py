"""The mesh of devices, where arrays are placed on it, and how they get there.

The mesh has two axes. A batch is split over both. Parameters, optimizer state and moving averages
are replicated, or split over the second axis only (`parameter_sharding`) and gathered where they
are used (`make_gather`).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xmc_jax.errors import UserError
from xmc_jax.types import Batch, PyTree

DATA_AXIS, FSDP_AXIS = "data", "fsdp"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)

# Arrays with fewer elements are replicated: gathering them would cost more than it saves.
_SMALLEST_SPLIT = 2**14


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """Makes a mesh with the axes ``data`` and ``fsdp``.

    Args:
      devices: Its devices; by default, all devices of all processes.
      fsdp: Number of devices that share one copy of the parameters. With 1, every device has its
        own copy.

    Raises:
      UserError: `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        sizes = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
        raise UserError(
            f"--fsdp={fsdp} does not divide the {len(devices)} devices; "
            f"use one of {', '.join(map(str, sizes))}"
        )
    return jax.make_mesh(
        (len(devices) // fsdp, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device has the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, batch_axis: int = 0) -> NamedSharding:
    """The batch axis is split over all devices, and the axes before it are not."""
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, BATCH_AXES))


def parameter_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of a parameter, its optimizer state and its moving average.

    The longest axis that the number of ``fsdp`` devices divides is split over them; of several
    equally long axes, the last. Arrays with fewer than 16,384 elements, and those without such an
    axis, are replicated.
    """
    devices = mesh.shape[FSDP_AXIS]
    fitting = [axis for axis, length in enumerate(shape) if length % devices == 0]
    if devices == 1 or math.prod(shape) < _SMALLEST_SPLIT or not fitting:
        return replicated(mesh)
    longest = max(fitting, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP_AXIS))


def make_gather(mesh: Mesh | None) -> Callable[[PyTree], PyTree]:
    """Builds the function that gathers split parameters where they are used.

    Their gradients get the sharding of the parameters again. Without these constraints the
    partitioner would split activations and move them, although they are larger.
    """
    if mesh is None or mesh.shape[FSDP_AXIS] == 1:
        return lambda params: params

    def gather(x: jax.Array) -> jax.Array:
        sharding = parameter_sharding(mesh, x.shape)

        @jax.custom_vjp
        def replicate(x: jax.Array) -> jax.Array:
            return jax.lax.with_sharding_constraint(x, replicated(mesh))

        def split_again(_: None, gradient: jax.Array) -> tuple[jax.Array]:
            return (jax.lax.with_sharding_constraint(gradient, sharding),)

        replicate.defvjp(lambda x: (replicate(x), None), split_again)
        return replicate(x)

    return functools.partial(jax.tree.map, gather)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuses a global batch that the devices cannot share evenly.

    Raises:
      UserError: The size is not a multiple of the devices; names the nearest sizes that are.
    """
    if batch_size > 0 and batch_size % mesh.size == 0:
        return
    lower = max(batch_size // mesh.size, 1) * mesh.size
    choices = f"{lower}" if lower >= batch_size else f"{lower} or {lower + mesh.size}"
    raise UserError(
        f"batch_size={batch_size} is not divisible by the {mesh.size} devices; use {choices}"
    )


def put_batch(batch: Batch, mesh: Mesh, *, batch_axis: int) -> Batch:
    """Sends the rows of this process to its devices, as parts of a global batch."""
    sharding = batch_sharding(mesh, batch_axis=batch_axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Sends host arrays, which are the same in every process, to the devices as global arrays."""

    def send(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(send, tree)


def make_whole(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies global arrays to every device, for use outside of training."""
    return jax.jit(_itself, out_shardings=replicated(mesh))(tree)


def _itself(tree: PyTree) -> PyTree:  # A single function, so that all calls share one compilation.
    return tree
