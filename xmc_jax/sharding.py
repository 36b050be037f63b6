"""One mesh for one device or a pod: where arrays live and how batches reach it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xmc_jax.errors import UserError
from xmc_jax.types import Batch

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with one axis, ``data``, over the given devices (default: all of every process)."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters, statistics, frozen weights."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, batch_axis: int = 0) -> NamedSharding:
    """The batch axis is split over the devices; the axes before it are not."""
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, DATA_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuses a global batch that the devices cannot share evenly.

    Raises:
      UserError: naming the nearest sizes that work.
    """
    num_devices = mesh.shape[DATA_AXIS]
    if batch_size > 0 and batch_size % num_devices == 0:
        return
    lower = max(batch_size // num_devices, 1) * num_devices
    choices = f"{lower}" if lower >= batch_size else f"{lower} or {lower + num_devices}"
    raise UserError(
        f"batch_size={batch_size} is not divisible by the {num_devices} devices; use {choices}"
    )


def put_batch(batch: Batch, mesh: Mesh, *, batch_axis: int) -> Batch:
    """Sends this process's rows of a global batch to its devices, as global arrays."""
    sharding = batch_sharding(mesh, batch_axis=batch_axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_replicated(tree, mesh: Mesh):
    """Copies a pytree of host arrays onto every device."""
    return jax.device_put(jax.tree.map(np.asarray, tree), replicated(mesh))
