"""One mesh for one device or a pod: where arrays live and how they get there.

The mesh has two axes. A batch is split over both; parameters, moments and averages are whole on
every device, or split over the second axis alone (`parameter_sharding`) and gathered where they are
used (`make_gather`).
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

# Arrays of fewer elements are whole everywhere: gathering them would cost more than it saves.
_SMALLEST_SPLIT = 2**14


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """A mesh with the axes ``data`` and ``fsdp`` over all devices of all processes.

    Args:
      devices: Others than all.
      fsdp: Devices that share one copy of the parameters; 1: every device has its own.

    Raises:
      UserError: the devices do not come in groups of `fsdp`.
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
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, batch_axis: int = 0) -> NamedSharding:
    """The batch axis is split over all devices; the axes before it are not."""
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, BATCH_AXES))


def parameter_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Where a parameter, its moments and its average live.

    The rule: the longest axis that the ``fsdp`` axis of the mesh divides (the last of them, if some
    are equally long) is split over it. Arrays of fewer than 16,384 elements, and those without such
    an axis, are whole everywhere.
    """
    devices = mesh.shape[FSDP_AXIS]
    fitting = [axis for axis, length in enumerate(shape) if length % devices == 0]
    if devices == 1 or math.prod(shape) < _SMALLEST_SPLIT or not fitting:
        return replicated(mesh)
    longest = max(fitting, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP_AXIS))


def make_gather(mesh: Mesh | None) -> Callable[[PyTree], PyTree]:
    """Builds the function that makes split parameters whole where they are used.

    Their gradients go back to where the parameters live. Without such constraints the partitioner
    would rather split activations and move these, which are larger.
    """
    if mesh is None or mesh.shape[FSDP_AXIS] == 1:
        return lambda params: params

    def gather(x: jax.Array) -> jax.Array:
        home = parameter_sharding(mesh, x.shape)

        @jax.custom_vjp
        def whole(x: jax.Array) -> jax.Array:
            return jax.lax.with_sharding_constraint(x, replicated(mesh))

        def send_home(_: None, gradient: jax.Array) -> tuple[jax.Array]:
            return (jax.lax.with_sharding_constraint(gradient, home),)

        whole.defvjp(lambda x: (whole(x), None), send_home)
        return whole(x)

    return functools.partial(jax.tree.map, gather)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuses a global batch that the devices cannot share evenly.

    Raises:
      UserError: naming the nearest sizes that work.
    """
    if batch_size > 0 and batch_size % mesh.size == 0:
        return
    lower = max(batch_size // mesh.size, 1) * mesh.size
    choices = f"{lower}" if lower >= batch_size else f"{lower} or {lower + mesh.size}"
    raise UserError(
        f"batch_size={batch_size} is not divisible by the {mesh.size} devices; use {choices}"
    )


def put_batch(batch: Batch, mesh: Mesh, *, batch_axis: int) -> Batch:
    """Sends this process's rows of a global batch to its devices, as global arrays."""
    sharding = batch_sharding(mesh, batch_axis=batch_axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Sends host arrays, the same in every process, to the devices, as global arrays."""

    def send(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(send, tree)


def make_whole(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies a pytree of global arrays onto every device, as they are used outside of training."""
    return jax.jit(_itself, out_shardings=replicated(mesh))(tree)


def _itself(tree: PyTree) -> PyTree:  # One function, hence one compilation for all calls.
    return tree
