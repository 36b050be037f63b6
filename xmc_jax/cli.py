"""What the command lines of all verbs share: flags, one-line errors, exit codes.

Also the command ``xmc-jax``. Kept light: `--help` does not wait for JAX or Keras.
"""

import ast
import gc
import os
import re
import runpy
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict

from xmc_jax import files
from xmc_jax.errors import UserError, did_you_mean, reason

USAGE_ERROR = 2
INTERRUPTED = 130  # The exit code of shells for Ctrl-C.

# The verbs of `xmc-jax`, in the order in which a run needs them: modules of this package.
VERBS = ("prepare", "plan", "train", "evaluate", "sample", "report", "compare", "export", "study")

# Tracing a training step allocates millions of objects, and nearly all of them stay. With Python's
# own thresholds the collector searches them again and again, for a fifth of the start of `train`.
_GC_THRESHOLDS = (100_000, 10, 10)

_PACKAGE = Path(__file__).parent
_CONFIGS = _PACKAGE / "configs"

# The flags below belong to the verb that asks for them, so that its --help shows them.
flags.disclaim_key_flags()


class _ConfigParser(flags.ArgumentParser):
    """Finds the experiments that come with this package by their names.

    Attributes:
      from_file: The parser that takes the path of a file.
    """

    def __init__(self, from_file: flags.ArgumentParser):
        self.from_file = from_file

    def parse(self, argument: str) -> ConfigDict:
        """The config; `argument` is ``NAME`` or ``PATH``, either with ``:ARGUMENT``."""
        name, colon, row = argument.partition(":")
        path = str(_CONFIGS / f"{name}.py") if name in _configs() else name
        try:
            config = self.from_file.parse(path + colon + row)
        except (OSError, TypeError, ValueError):
            raise  # `_parse_flags` names them.
        except Exception as error:  # A user's file may raise anything.
            fault = f"{type(error).__name__}: {reason(error)}"
            raise flags.IllegalFlagValueError(f"--config={argument}: {fault}") from error
        if isinstance(config, dict):
            raise flags.IllegalFlagValueError(
                f"--config={argument}: get_config returns a dict; make it a ConfigDict"
            )
        return config


def define_config_flag() -> None:
    """Defines ``--config=NAME[:ARGUMENT]`` and its overrides ``--config.section.field=value``.

    NAME is an experiment that comes with this package, or the path of a file that defines one.
    """
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment by name or file, e.g. shapes_32, coco_256:s_w or configs/shapes_32.py. "
        "Override a field with --config.section.field=value.",
        lock_config=True,
    )
    flag = flags.FLAGS["config"]
    flag.parser = _ConfigParser(flag.parser)


def define_workdir_flag(meaning: str) -> None:
    """Defines ``--workdir``: the folder of a run, or what else a verb takes for it."""
    flags.DEFINE_string("workdir", None, meaning)


def define_data_dir_flag() -> None:
    """Defines ``--data_dir``: where prepared data sets are; TFDS's convention by default."""
    flags.DEFINE_string(
        "data_dir",
        os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"),
        "Folder of the prepared data sets (or the environment's TFDS_DATA_DIR).",
    )


def define_seed_flag(meaning: str) -> None:
    """Defines ``--seed``: of noise, an int32 as in JAX."""
    flags.DEFINE_integer("seed", 0, meaning, lower_bound=-(2**31), upper_bound=2**31 - 1)


def define_process_flags() -> None:
    """Defines the flags by which several processes become one run."""
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of process 0, for a run of several processes. Needs --num_processes and "
        "--process_id; Cloud TPU, GKE and Slurm need none of the three.",
    )
    flags.DEFINE_integer("num_processes", None, "Processes of the run.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


def required(name: str) -> Any:
    """The value of a flag that the verb cannot do without; of a path, with the home for ``~``.

    Raises:
      UserError: the flag was not given.
    """
    value = flags.FLAGS[name].value
    if value is None or value == "":
        hint = ", e.g. --config=one_shape_32" if name == "config" else ""
        raise UserError(f"--{name} is missing{hint}; --help explains it")
    # Shells do so at the start of a word only, not in --workdir=~/runs.
    return os.path.expanduser(value) if isinstance(value, str) else value


def read_captions_file(name: str) -> list[str]:
    """The captions in the text file that a flag names, one a line, without empty lines.

    Raises:
      UserError: the flag was not given, or its file cannot be read.
    """
    path = Path(required(name))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read --{name}={path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--{name}={path} is not UTF-8 text ({error.reason})") from error
    return [line.strip() for line in lines if line.strip()]


def required_config() -> ConfigDict:
    """The value of the config flag.

    Raises:
      UserError: the flag was not given, or its file does not exist.
    """
    config = required("config")
    try:
        config.items()  # A missing file surfaces at the first use of the config.
    except OSError as error:
        raise UserError(_no_config_file()) from error
    return config


def main() -> None:
    """The command ``xmc-jax VERB …``: the same as ``python -m xmc_jax.VERB …``."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "-help", "help"):
        print(f"usage: xmc-jax VERB [--flag=value …]\n\n{_summaries()}")
        print("\nxmc-jax VERB --help explains a verb; python -m xmc_jax.VERB is the same command.")
        sys.exit(0 if len(sys.argv) > 1 else USAGE_ERROR)
    verb = sys.argv.pop(1)
    if verb not in VERBS:
        _fail(f"no verb {verb!r}; there are {', '.join(VERBS)}")
    runpy.run_module(f"xmc_jax.{verb}", run_name="__main__", alter_sys=True)


def _summaries() -> str:
    """The first lines of the verbs' descriptions, read without importing the verbs."""
    lines = []
    for verb in VERBS:
        file = _PACKAGE / f"{verb}.py"
        source = (file if file.is_file() else _PACKAGE / verb / "__main__.py").read_text("utf-8")
        description = ast.get_docstring(ast.parse(source)) or ""
        lines.append(f"  {verb:<9} {description.splitlines()[0]}")
    return "\n".join(lines)


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
      takes_arguments: Whether `main` takes the arguments that are no flags, as a list; they are
        refused otherwise.
    """

    def main_on_one_line(argv: Sequence[str]) -> None:
        if len(argv) > 1 and not takes_arguments:
            _fail(f"unexpected argument {argv[1]!r}; flags are written --name=value")
        # The verbs print their own progress; libraries only warn.
        logging.set_verbosity(logging.WARNING)
        try:
            _check_addresses()
            main(argv[1:]) if takes_arguments else main()
        except UserError as error:
            # A name in the message may contain line breaks.
            _leave(f"error: {' '.join(str(error).splitlines())}", USAGE_ERROR)
        except KeyboardInterrupt:
            _leave("interrupted; the same command starts again or resumes", INTERRUPTED)
        except Exception as error:
            if stopping := _stopping_of_several():
                if dead := stopping.give_way():
                    _leave(f"error: {dead}", 1)
                traceback.print_exc()
                _leave(f"{type(error).__name__}: {reason(error)}", 1)
            raise

    gc.set_threshold(*_GC_THRESHOLDS)
    app.run(main_on_one_line, flags_parser=_parse_flags)


def _check_addresses() -> None:
    """Refuses folders at places of a kind that does not exist, such as ``gcs://…``."""
    for value in flags.FLAGS.flag_values_dict().values():
        if isinstance(value, str) and not value.startswith(("http://", "https://")):
            files.check_kind(value)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # --help was given; absl would leave with 1.
    except flags.UnrecognizedFlagError as error:
        _fail(f"{reason(error)}; --help lists the flags")
    except flags.Error as error:
        _fail(_last_line(error))
    except BrokenPipeError:  # Of `--help | head`, which has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # For what Python flushes.
        sys.exit(0)
    except OSError:
        _fail(_no_config_file())
    except (AttributeError, KeyError) as error:
        _fail(_unknown_field(argv, error))
    except (TypeError, ValueError) as error:
        _fail(f"--config: {_last_line(error)}")


def _no_config_file() -> str:
    given = [a for a in sys.argv if re.match(r"--?config=", a)]
    name = given[-1].partition("=")[2] if given else "--config"
    return f"no config file {name}; there are {', '.join(_configs())}"


def _configs() -> list[str]:
    return [path.stem for path in sorted(_CONFIGS.glob("*_[0-9]*.py"))]


def _unknown_field(argv: Sequence[str], error: Exception) -> str:
    """The line about an override of a field that the config does not have."""
    overrides = [found[1] for a in argv if (found := re.match(r"--?(?:no)?config\.([\w.]+)", a))]
    given = [a.partition("=")[2] for a in argv if re.match(r"--?config=", a)]
    if not given:
        return f"--config: {_last_line(error)}"
    config = flags.FLAGS["config"].parser.parse(given[-1])
    known = _field_names(config)
    for name in overrides:
        if name not in known:
            return f"the config has no field {name}{did_you_mean(name, known)}"
    return f"--config: {_last_line(error)}"


def _field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    names = []
    for name, value in config.items():
        is_section = isinstance(value, ConfigDict)
        names += _field_names(value, f"{prefix}{name}.") if is_section else [prefix + name]
    return names


def _last_line(error: Exception) -> str:
    """The line of a message that tells most: a config's own error ends a quoted stack trace."""
    lines = str(error).strip().splitlines()
    if any(line.startswith("Traceback") for line in lines):
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    return reason(error)


def _fail(message: str) -> None:
    _leave(f"error: {message}", USAGE_ERROR)


def _leave(message: str, exit_code: int) -> None:
    """Ends this process with one line, and with it the others of its run."""
    print(message, file=sys.stderr, flush=True)
    if stopping := _stopping_of_several():
        stopping.stop_others(message.removeprefix("error: "), exit_code)
    if any(
        not thread.daemon
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ):
        sys.stdout.flush()
        os._exit(exit_code)  # A compilation cannot be stopped, and may take minutes.
    sys.exit(exit_code)


def _stopping_of_several() -> Any:
    """The module `stopping` if this process is one of several; None otherwise."""
    if "jax" not in sys.modules or not sys.modules["jax"].distributed.is_initialized():
        return None
    return sys.modules.get("xmc_jax.parallel.stopping")  # Loaded by `startup`, which has joined.
