"""The beginning of a training run: claims its folder, before anything heavy is loaded."""

import contextlib

from ml_collections import ConfigDict

from xmc_jax import files
from xmc_jax.parallel import processes
from xmc_jax.run.config import check_same_networks
from xmc_jax.training.interruption import Interruption


def train(
    config: ConfigDict,
    workdir: str,
    data_dir: str,
    reader_workers: int | None = None,
    fsdp: int = 1,
    profiled_steps: range = range(0),
    init_from: str | None = None,
    init_partial: bool = False,
) -> None:
    """Trains to ``config.num_steps``, from the newest checkpoint of the workdir if there is one.

    Every process of a run calls it; the first one writes.

    Args:
      config: A resolved experiment; see `configs/shapes_32.py`.
      workdir: Folder of the run.
      data_dir: Folder of the prepared data sets.
      reader_workers: Worker processes that read; 0 for threads, None to choose. Never changes a
        result.
      fsdp: Devices that share one copy of the parameters. Changes results by rounding only.
      profiled_steps: Steps to profile, consecutive ones; see `profile.Profiler`.
      init_from: Folder of a model that a new run starts from; see `trained_start`. A run that has
        checkpoints goes on from these.
      init_partial: Whether not all arrays need to fit.

    Raises:
      UserError: a setting cannot work, something is missing, another process trains in the folder,
        or a loss is no longer finite.
    """
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        if processes.is_first():
            files.ensure_writable(workdir)
            stack.enter_context(files.only_one(workdir, "training in"))
        check_same_networks(workdir, config)
        # Loads Keras and TFDS, which a refused folder does not wait for.
        from xmc_jax.training import loop

        loop.train(
            config,
            workdir,
            data_dir,
            interruption,
            reader_workers,
            fsdp,
            profiled_steps,
            init_from,
            init_partial,
        )


def replay(
    config: ConfigDict,
    workdir: str,
    data_dir: str,
    reader_workers: int | None = None,
    fsdp: int = 1,
) -> None:
    """Repeats the last step that was not finite, and prints its terms; writes nothing.

    Arguments as in `train`; the config may be the one of the run or one that may mend it.

    Raises:
      UserError: no step was not finite, or its checkpoint is gone.
    """
    check_same_networks(workdir, config)
    from xmc_jax.training import replay as replaying  # As above.

    replaying.replay(config, workdir, data_dir, reader_workers, fsdp)
