"""What every verb's command line shares: flags, one-line errors, exit codes.

Kept light: `--help` must not wait for JAX or TensorFlow.
"""

import difflib
import logging as python_logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict

from xmc_jax.types import UserError

USAGE_ERROR = 2


# The flags below belong to the verb that asks for them, so that its --help shows them.
flags.disclaim_key_flags()


def define_config_flag() -> None:
    """The flag ``--config=configs/NAME.py[:ARGUMENT]`` and its overrides ``--config.a.b=value``."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment, e.g. configs/shapes_32.py or configs/coco_256.py:s_w. "
        "Override a field with --config.section.field=value.",
        lock_config=True,
    )


def define_workdir_flag() -> None:
    """The flag ``--workdir``: the folder of a run."""
    flags.DEFINE_string("workdir", None, "Folder of the training run.")


def define_data_dir_flag() -> None:
    """The flag ``--data_dir``: where prepared data sets are; the TFDS convention by default."""
    flags.DEFINE_string(
        "data_dir",
        os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"),
        "Folder of the prepared data sets (also: the environment's TFDS_DATA_DIR).",
    )


def required(name: str) -> Any:
    """The value of a flag that the verb cannot do without.

    Raises:
      UserError: it was not given.
    """
    value = flags.FLAGS[name].value
    if value is None or value == "":
        hint = f", e.g. --config={known[0]}" if name == "config" and (known := _configs()) else ""
        raise UserError(f"--{name} is missing{hint}; --help explains it")
    return value


def set_up_jax() -> None:
    """Keeps compiled programs between runs, so that the same command starts faster again."""
    import jax

    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "xmc_jax", "jax"))


def format_duration(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below one hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`; a `UserError` becomes one line and exit code 2."""
    # TensorFlow's greeting (INFO) says nothing that a user of this package can act on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # Before anything imports Keras, as TensorFlow's friends do.
    os.environ["KERAS_BACKEND"] = "jax"
    logging.set_verbosity(logging.INFO)

    def main_without_arguments(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; flags are written --name=value")
        # The verbs print their own progress; libraries speak when something is wrong.
        python_logging.getLogger("absl").setLevel(python_logging.WARNING)
        try:
            main()
        except UserError as error:
            _fail(str(error))

    app.run(main_without_arguments, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        _fail(f"{_first_line(error)}; --help lists the flags")
    except flags.Error as error:
        _fail(_first_line(error))
    except FileNotFoundError as error:
        hint = f"; there are {', '.join(known)}" if (known := _configs()) else ""
        _fail(f"no config file {error.filename}{hint}")
    except (AttributeError, KeyError) as error:
        _fail(_explain_unknown_field(argv, error))
    except (TypeError, ValueError) as error:
        _fail(f"--config: {_first_line(error)}")


def _configs() -> list[str]:
    return [str(path) for path in sorted(Path("configs").glob("*_[0-9]*.py"))]


def _explain_unknown_field(argv: Sequence[str], error: Exception) -> str:
    """Finds the override that names no field, and the field it is nearest to."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if config is None:
        return f"--config: {_first_line(error)}"
    known = list(_field_names(config))
    for argument in argv[1:]:
        match = re.match(r"--?config\.([^=]+)", argument)
        if match and match[1] not in known:
            near = difflib.get_close_matches(match[1], known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else f"; fields: {', '.join(known)}"
            return f"the config has no field {match[1]}{hint}"
    return f"--config: {_first_line(error)}"


def _field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    names = []
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            names += _field_names(value, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def _first_line(error: Exception) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.strip().splitlines()[0]


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(USAGE_ERROR)
