"""Checkpoints of a run: saved in the background, verified when they are read.

A checkpoint is a folder, ``<directory>/<step>``, with the items ``ema`` (the averages that
generate images; it can be restored alone), ``state`` (everything else) and ``manifest`` (shape,
type and checksum of every array).
"""

import contextlib
import dataclasses
import errno
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, UInt32
from orbax.checkpoint import checkpoint_managers as ocp_managers

from xmc_jax import files
from xmc_jax.errors import UserError, reason
from xmc_jax.train_state import TrainState
from xmc_jax.types import PyTree

Manifest = dict[str, list]  # Path of an array -> [shape, dtype, checksum].
_OWN_CHECKSUM = "checksum"  # Of the manifests themselves, among them.

# How long Orbax waits for a save. It measures by the wall clock, so a clock that jumps forward by
# more during a save would end the run. Dead processes and disks are noticed by other means.
_PATIENCE_SECONDS = 7 * 86_400
_WRITE_ERRORS = (
    errno.ENOENT,  # The folder was removed.
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
)


class Checkpoints:
    """The checkpoints in a folder. A context manager: leaving it waits for the last save.

    Every process of a run creates one and calls the same methods in the same order.

    Args:
      directory: The folder, local or remote; created if it does not exist, unless `read_only`.
      keep_latest: How many of the newest checkpoints are kept.
      read_only: Never writes: for evaluating and sampling while the run trains.
    """

    def __init__(self, directory: epath.PathLike, *, keep_latest: int = 2, read_only: bool = False):
        if keep_latest < 1:
            raise UserError(f"keep_latest={keep_latest}: at least one checkpoint must be kept")
        directory = epath.Path(directory).expanduser()
        # Orbax wants absolute paths, and `absolute` spoils remote ones.
        self.directory = directory if files.is_remote(directory) else directory.absolute()
        self._read_only = read_only
        self._damaged: set[int] = set()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp_managers.LatestN(keep_latest),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE_SECONDS),
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "ema": ocp.StandardCheckpointHandler(),
                "manifest": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, exc_type, *_) -> None:
        if exc_type is not None:
            # Finish what can be finished; the error that is on its way is the one to report.
            try:
                self._manager.close()
            except Exception as error:
                self._say(f"closing the checkpoints failed too: {reason(error)}")
            return
        self.wait()
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints on disk, oldest first."""
        # Not from Orbax, whose list is cached: another process may be the one that writes.
        return complete_steps(self.directory)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: TrainState) -> bool:
        """Saves a state in the background; the caller may donate it as soon as this returns.

        Args:
          step: Names the checkpoint.
          state: Arrays on devices.

        Returns:
          Whether it is being saved: False if a checkpoint of this step exists.

        Raises:
          UserError: this save or the one before it failed; the older checkpoints are whole.
        """
        if self._read_only:
            raise ValueError("these checkpoints were opened with read_only=True")
        self._move_damaged_aside()
        if step in self._manager.all_steps():
            return False
        self._check_space(state)
        items = _split(state)
        manifests = {name: _manifest(tree) for name, tree in items.items()}
        manifests[_OWN_CHECKSUM] = _text_checksum(manifests)
        with self._failed_write_is_user_error():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    manifest=ocp.args.JsonSave(manifests),
                    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                ),
                force=True,
            )
        return True

    def wait(self) -> None:
        """Waits until the last save is complete on disk.

        Raises:
          UserError: the save failed.
        """
        with self._failed_write_is_user_error():
            self._manager.wait_until_finished()

    def restore(self, abstract_state: TrainState, step: int | None = None) -> TrainState:
        """Restores a whole state onto the shardings of an abstract one.

        Args:
          abstract_state: Shapes, types and shardings (`jax.ShapeDtypeStruct`, or arrays).
          step: Which checkpoint; None for the newest good one. Damaged ones are skipped with a
            notice on stderr, and moved aside at the next save.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it is of another model.
        """
        _, items = self._restore(_split(abstract_state), step)
        return dataclasses.replace(abstract_state, **items["state"], ema=items["ema"])

    def restore_ema(self, abstract_ema: PyTree, step: int | None = None) -> tuple[int, PyTree]:
        """Restores only the averages that generate images; see `restore`.

        Returns:
          The step, and ``{"params", "batch_stats"}`` of the averaged generator.
        """
        found, items = self._restore({"ema": abstract_ema}, step)
        return found, items["ema"]

    def _restore(self, abstract: Mapping[str, PyTree], step: int | None) -> tuple[int, dict]:
        steps = self.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.directory}: train first, or check --workdir")
        if step is not None and step not in steps:
            raise UserError(
                f"no checkpoint of step {step} in {self.directory}; there are {_listed(steps)}"
            )
        abstract = jax.tree.map(_with_sharding, abstract)
        for candidate in reversed(steps) if step is None else [step]:
            items, damage = self._try_to_restore(abstract, candidate)
            # Damage may show in one process only, and all must restore the same checkpoint.
            if _everywhere(not damage):
                return candidate, items
            self._say(f"checkpoint {candidate} in {self.directory} is damaged: {damage}")
            self._damaged.add(candidate)
        good = [s for s in steps if s not in self._damaged]
        raise UserError(
            f"no usable checkpoint in {self.directory}"
            if step is None
            else f"checkpoint {step} in {self.directory} is damaged; others are {_listed(good)}"
        )

    def _try_to_restore(self, abstract: Mapping[str, PyTree], step: int) -> tuple[dict, str]:
        """The items, and what is wrong with them: empty if nothing is.

        Raises:
          UserError: the checkpoint is sound, but its arrays are not the abstract ones.
        """
        # Truncation raises many kinds of exception, depending on what was cut.
        try:
            args = ocp.args.Composite(manifest=ocp.args.JsonRestore())
            manifests = self._manager.restore(step, args=args)["manifest"]
            checksum = manifests.pop(_OWN_CHECKSUM, None)  # Earlier versions wrote none.
            if checksum not in (None, _text_checksum(manifests)):
                raise ValueError("its checksum does not match")
            manifests = {name: manifests[name] for name in abstract}
        except Exception as error:
            return {}, f"its manifest cannot be read ({reason(error)})"
        for name, tree in abstract.items():
            self._check_fit(step, _manifest(tree), manifests[name])
        try:
            args = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
            items = dict(self._manager.restore(step, args=ocp.args.Composite(**args)).items())
        except Exception as error:
            return {}, reason(error)
        for name, tree in items.items():
            for path, entry in _manifest(tree).items():
                if entry != manifests[name][path]:
                    return {}, f"the checksum of {name}{path} does not match"
        return items, ""

    def _check_fit(self, step: int, wanted: Manifest, found: Manifest) -> None:
        for path in [*wanted, *found]:
            here, there = (m[path][:2] if path in m else "absent" for m in (wanted, found))
            if here != there:
                raise UserError(
                    f"checkpoint {step} in {self.directory} is of another model or optimizer: "
                    f"{path} is {there} there and {here} in the config"
                )

    def _check_space(self, state: TrainState) -> None:
        """Refuses before the first byte: on a full disk Orbax logs hundreds of stack traces."""
        with self._failed_write_is_user_error():
            if not files.is_remote(self.directory):
                self.directory.stat()  # A folder that was removed is not created again.
            files.check_space(
                self.directory,
                _local_bytes(state),
                task="cannot save a checkpoint: it",
                mend=f" and start again: {self._resumption()}",
            )

    def _move_damaged_aside(self) -> None:
        """Moves damaged checkpoints aside: the run is about to save their steps again."""
        while self._damaged:
            folder = self.directory / str(self._damaged.pop())
            if jax.process_index() == 0:
                aside = folder.parent / f"{folder.name}.damaged"
                if aside.exists():
                    aside.rmtree()
                folder.replace(aside)
            multihost_utils.sync_global_devices("xmc_jax.checkpoint.move_damaged_aside")
            self._manager.reload()

    @contextlib.contextmanager
    def _failed_write_is_user_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            cause = _write_failure(error)
            if isinstance(error, UserError) or not cause:
                raise
            raise UserError(
                f"cannot save a checkpoint in {self.directory}: {cause}; mend that and start "
                f"again: {self._resumption()}"
            ) from error

    def _resumption(self) -> str:
        return f"training resumes from the last complete one ({_listed(self.steps())})"

    def _say(self, message: str) -> None:
        if jax.process_index() == 0:
            print(message, file=sys.stderr, flush=True)


def complete_steps(directory: epath.PathLike) -> list[int]:
    """Steps of the complete checkpoints in a folder, oldest first; none without a folder."""
    directory = epath.Path(directory)
    if not directory.exists():
        return []
    found = ocp.path.step.standard_name_format().find_all(directory)
    return sorted(checkpoint.step for checkpoint in found)


def _split(state: TrainState) -> dict[str, PyTree]:
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {"ema": fields.pop("ema"), "state": fields}


def _manifest(tree: PyTree) -> Manifest:
    """Shape, type and, unless it is abstract, checksum of every array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    entries = {jax.tree_util.keystr(path): [list(x.shape), str(x.dtype)] for path, x in leaves}
    # All checksums are started before the first is waited for. One program per array instead of
    # one for all: parameters, averages and moments share shapes, hence compiled programs.
    checksums = [_checksum(x) for _, x in leaves if isinstance(x, jax.Array)]
    for entry, checksum in zip(entries.values(), checksums, strict=bool(checksums)):
        entry.append(int(checksum))
    return entries


def _text_checksum(manifests: Mapping[str, Manifest]) -> int:
    return zlib.crc32(json.dumps(manifests, sort_keys=True).encode())


@jax.jit
def _checksum(x: Array) -> UInt32[Array, ""]:
    """A checksum, computed where the array is: a sum of integers is equal in any order and split.

    The bits of each element are mixed with its place by a bijection, then added modulo 2^32: a
    change of one element always shows, and any other change with a chance of 1 - 2^-32.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, f"uint{min(8 * x.dtype.itemsize, 32)}")
    bits = bits.astype(jnp.uint32)
    # No reshape to one axis, which would gather an array that is split over devices.
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        iota = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place += iota * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    mixed = bits + place * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _local_bytes(tree: PyTree) -> int:
    """Bytes that this process writes: each shard once, however many devices hold a copy."""
    shards = (s for x in jax.tree.leaves(tree) for s in x.addressable_shards)
    return sum(shard.data.nbytes for shard in shards if shard.replica_id == 0)


def _with_sharding(x: Any) -> jax.ShapeDtypeStruct:
    """The abstract leaf; one without a sharding goes to the first device of this process."""
    sharding = getattr(x, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _everywhere(good: bool) -> bool:
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.array(good))))


def _write_failure(error: BaseException | None) -> str:
    """The operating system's words if the disk caused the error; empty otherwise."""
    while error is not None:
        for words in map(os.strerror, _WRITE_ERRORS):
            # TensorStore raises a ValueError that quotes the words.
            if words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return ""


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"
