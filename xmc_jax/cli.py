"""What every verb's command line shares: flags, one-line errors, exit codes.

Kept light: `--help` must not wait for JAX or TensorFlow.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict

from xmc_jax.errors import UserError

USAGE_ERROR = 2
INTERRUPTED = 130  # As shells have it for Ctrl-C.


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


def define_process_flags() -> None:
    """The flags by which several processes become one run."""
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of process 0, for a run of several processes. With --num_processes and "
        "--process_id; none of them is needed on Cloud TPU, GKE and Slurm.",
    )
    flags.DEFINE_integer("num_processes", None, "Processes of the run.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


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


def read_captions_file(name: str) -> list[str]:
    """The captions in the text file that a flag names, one a line; empty lines are left out.

    Raises:
      UserError: the flag was not given, or its file cannot be read.
    """
    path = Path(required(name)).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read --{name}={path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--{name}={path} is not UTF-8 text ({error.reason})") from error
    return [line.strip() for line in lines if line.strip()]


def required_config() -> ConfigDict:
    """The value of the config flag.

    Raises:
      UserError: it was not given, or its file is not there.
    """
    config = required("config")
    try:
        config.items()  # A missing file surfaces at the first use of the config.
    except OSError as error:
        raise UserError(_no_config_file()) from error
    return config


def set_up_jax() -> None:
    """Joins the processes of the run, where the verb has flags for them, and prepares JAX.

    Raises:
      UserError: see `startup.join`.
    """
    from xmc_jax.parallel import startup  # Loads JAX, which --help does not wait for.

    if "coordinator_address" in (values := flags.FLAGS):
        startup.join(values.coordinator_address, values.num_processes, values.process_id)
    startup.set_up_jax()


def run(main: Callable[..., None], *, takes_arguments: bool = False) -> None:
    """Parses the flags and calls `main`; a `UserError` or Ctrl-C becomes one line.

    Args:
      main: The verb.
      takes_arguments: Whether it is called with the arguments that are no flags, as a list; they
        are refused otherwise.
    """

    def main_on_one_line(argv: Sequence[str]) -> None:
        if len(argv) > 1 and not takes_arguments:
            _fail(f"unexpected argument {argv[1]!r}; flags are written --name=value")
        # The verbs print their own progress; libraries speak when something is wrong.
        logging.set_verbosity(logging.WARNING)
        try:
            main(argv[1:]) if takes_arguments else main()
        except UserError as error:
            # A name in it may have any character: one line all the same.
            _leave(f"error: {' '.join(str(error).splitlines())}", USAGE_ERROR)
        except KeyboardInterrupt:
            _leave("interrupted; the same command starts or goes on again", INTERRUPTED)
        except Exception as error:
            if _is_one_of_several():
                from xmc_jax.parallel import stopping

                if dead := stopping.give_way():
                    _leave(f"error: {dead}", 1)
                traceback.print_exc()
                _leave(f"{type(error).__name__}: {error}", 1)
            raise

    app.run(main_on_one_line, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # Help was asked for and given; absl would leave with 1.
    except flags.UnrecognizedFlagError as error:
        _fail(f"{_one_line(error)}; --help lists the flags")
    except flags.Error as error:
        _fail(_one_line(error))
    except OSError:
        _fail(_no_config_file())
    except (AttributeError, KeyError) as error:
        _fail(_explain_unknown_field(error))
    except (TypeError, ValueError) as error:
        _fail(f"--config: {_one_line(error)}")


def _no_config_file() -> str:
    given = [a for a in sys.argv if re.match(r"--?config=", a)]
    name = given[0].partition("=")[2] if given else "--config"
    hint = f"; there are {', '.join(known)}" if (known := _configs()) else ""
    return f"no config file {name}{hint}"


def _configs() -> list[str]:
    return [str(path) for path in sorted(Path("configs").glob("*_[0-9]*.py"))]


def _explain_unknown_field(error: Exception) -> str:
    suggestion = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', str(error))
    if not suggestion:
        given = _one_line(error).strip("'")
        return f"the config has no field {given}"
    near, given = suggestion.groups()
    return f"the config has no field {given}; did you mean {near}?"


def _one_line(error: Exception) -> str:
    """The line of a message that tells most; a config's own error ends a quoted stack trace."""
    lines = (str(error.args[0]) if error.args else type(error).__name__).strip().splitlines()
    if any(line.startswith("Traceback") for line in lines):
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    return lines[0]


def _fail(message: str) -> None:
    _leave(f"error: {message}", USAGE_ERROR)


def _leave(message: str, exit_code: int) -> None:
    """Ends this process with one line, and with it the others of its run."""
    print(message, file=sys.stderr, flush=True)
    if _is_one_of_several():
        from xmc_jax.parallel import stopping

        stopping.stop_others(message.removeprefix("error: "), exit_code)
    sys.exit(exit_code)


def _is_one_of_several() -> bool:
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
