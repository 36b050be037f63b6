"""What an evaluation is asked to do: the run's config with changes, refused early if impossible.

Loads neither TFDS nor Keras, so that a mistake is reported at once.
"""

import time
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from xmc_jax import files
from xmc_jax.errors import UserError
from xmc_jax.evaluation.selection import choose_metrics
from xmc_jax.inference.exported import is_exported
from xmc_jax.parallel import processes
from xmc_jax.run.config import read_config
from xmc_jax.run.config_checks import check_evaluation
from xmc_jax.run.folder import config_path

POLL_SECONDS = 5.0  # Between two checks for a new file.


def read_request(
    workdir: str, names: Sequence[str], settings: Mapping[str, str], split: str | None
) -> ConfigDict:
    """Reads the config of a run or an exported model, as one evaluation uses it.

    Args:
      workdir: Folder of the run, or of the exported model.
      names: Metrics asked for; empty for all that are available.
      settings: Values of fields of ``config.eval`` for this evaluation only, as text.
      split: Split to measure on; None for the run's own evaluation split.

    Raises:
      UserError: the folder holds no run or cannot be written, or the evaluation is impossible.
    """
    config = read_config(workdir)
    for name, text in settings.items():
        if name not in config.eval:
            known = ", ".join(config.eval)
            raise UserError(f"config.eval has no field {name}; there are {known}")
        try:
            config.eval[name] = type(config.eval[name])(text)
        except ValueError as error:
            raise UserError(f"--set={name}={text}: {error}") from error
    if split:
        config.data.eval_split = split
    if processes.is_first():
        files.ensure_writable(workdir)
    check_evaluation(config)
    choose_metrics(names, config)
    return config


def wait_for_run(workdir: str) -> None:
    """Waits until a folder has the config of a run; a UserError if it holds an exported model."""
    if is_exported(workdir):
        raise UserError(
            f"{workdir} is an exported model, and --watch measures a run as its checkpoints come; "
            "leave out --watch"
        )
    if not config_path(workdir).exists():
        processes.say(f"waiting for a run in {workdir}")
    while not config_path(workdir).exists():
        time.sleep(POLL_SECONDS)
