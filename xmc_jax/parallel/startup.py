"""What has to happen before JAX touches a device."""

import glob
import os
import sys

import jax

from xmc_jax import files
from xmc_jax.errors import UserError, reason
from xmc_jax.parallel import stopping


def hide_missing_tpu() -> None:
    """Stops libtpu, where it is installed, from printing errors if the machine has no TPU.

    Has to be called before anything touches a device.
    """
    if not any(map(glob.glob, ("/dev/accel*", "/dev/vfio/*"))):
        os.environ.setdefault("TPU_LOAD_LIBRARY", "0")


def join(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connects this process with the others of its run, before anything touches a device.

    Without arguments it joins the cluster that JAX detects (Cloud TPU, GKE, Slurm, Open MPI);
    elsewhere the process stays alone.

    Args:
      coordinator_address: ``host:port`` of process 0, as all others reach it.
      num_processes: How many there are.
      process_id: Which one this is, from 0.

    Raises:
      UserError: one of the arguments is missing or wrong, or the others cannot be reached.
    """
    hide_missing_tpu()
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(f"{', '.join(missing)} is missing: {', '.join(given)} belong together")
    if not missing and not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id} is not one of {num_processes} processes")
    if not missing:
        place = f"process {process_id} of {num_processes}"
        print(f"{place}: meeting the others at {coordinator_address}", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except ValueError as error:
        if missing and "coordinator_address should be defined" in str(error):
            return  # No cluster: a single process.
        raise UserError(f"could not join the run's processes: {reason(error)}") from error
    except RuntimeError as error:
        raise UserError(
            f"could not meet the other processes at {coordinator_address}: {reason(error)}; start "
            "all of them within five minutes, with the address at which they reach process 0"
        ) from error
    if jax.process_count() > 1:
        stopping.watch_others()


def set_up_jax() -> None:
    """Hides a missing TPU, and keeps compiled programs on disk for the next start."""
    hide_missing_tpu()
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        # Programs for CPUs that are loaded from the cache run their collectives out of order
        # (jaxlib 0.10.2): processes receive each other's data, and a single process hangs.
        jax.config.update("jax_enable_compilation_cache", False)
        return

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "jax"))
    # Small programs, too: loading a network runs dozens of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
