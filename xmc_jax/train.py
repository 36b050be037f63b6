r"""Trains a text-to-image model; the same command resumes a run that was stopped or killed.

    python -m xmc_jax.train --config=configs/one_shape_32.py --workdir=runs/one_shape_32
    python -m xmc_jax.train --config=configs/shapes_32.py:s_w --workdir=runs/s_w \
        --config.batch_size=64
    python -m xmc_jax.train --config=configs/one_shape_32.py --workdir=runs/tuned \
        --init_from=runs/one_shape_32

Writes to the workdir: config.json, metrics.jsonl, TensorBoard events, samples/, checkpoints/.
SIGTERM and Ctrl-C save a checkpoint and end the run with exit code 0; a second one ends it at once.
A loss or a gradient that is not finite stops the run; --replay then tells which term of the step
was the first.
"""

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError


def main() -> None:
    """Reads the flags and trains."""
    config, workdir = cli.required_config(), cli.required("workdir")
    cli.set_up_jax()
    from xmc_jax.training import profile, start  # Load JAX, which --help does not wait for.

    options = flags.FLAGS
    profiled_steps = profile.parse_steps(options.profile)
    if options.replay and profiled_steps:
        raise UserError("--replay repeats one step alone: it takes no --profile")
    if options.init_partial and not options.init_from:
        raise UserError("--init_partial needs --init_from: the folder of a model to start from")
    if options.replay and options.init_from:
        raise UserError("--replay repeats a step of the run as it is: it takes no --init_from")
    arguments = config, workdir, options.data_dir, options.reader_workers, options.fsdp
    if options.replay:
        start.replay(*arguments)
    else:
        start.train(*arguments, profiled_steps, options.init_from, options.init_partial)


def _define_flags() -> None:
    cli.define_config_flag()
    cli.define_workdir_flag("Folder of the run; a run that is there already goes on.")
    cli.define_data_dir_flag()
    cli.define_process_flags()
    flags.DEFINE_integer(
        "fsdp",
        1,
        "Devices that share one copy of parameters, moments and averages, for networks that do not "
        "fit on one. Changes results by rounding only.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "reader_workers",
        None,
        "Processes that read and decode; 0: threads of this process. Changes the speed, never a "
        "result. Default: chosen by the number of cores.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "profile",
        "",
        "STEP:COUNT: record COUNT steps from STEP on, for TensorBoard's profiler and for Perfetto, "
        "in the workdir's plugins/profile.",
    )
    flags.DEFINE_string(
        "init_from",
        None,
        "Folder of a run or of an exported model, or hf://USER/NAME: a new run starts from its "
        "parameters. A run that resumes does not need it.",
    )
    flags.DEFINE_bool(
        "init_partial",
        False,
        "Start from those parameters that fit, and draw the others: for another resolution or "
        "another text. Twice the resolution starts from the pictures of a model as wide.",
    )
    flags.DEFINE_bool(
        "replay",
        False,
        "Repeat the last step that was not finite, print each of its terms, and write nothing.",
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
