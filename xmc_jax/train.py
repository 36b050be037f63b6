"""Trains a text-to-image model; started again with the same command, it goes on where it was.

    python -m xmc_jax.train --config=configs/shapes_32.py --workdir=runs/shapes_32
    python -m xmc_jax.train --config=configs/shapes_32.py:s_w --workdir=runs/s_w \
        --config.batch_size=64

Writes to the workdir: config.json, metrics.jsonl, TensorBoard events, samples/, checkpoints/.
SIGTERM and Ctrl-C save and end it with exit code 0; a second one ends it at once. A loss or a
gradient that is not finite stops it, and --replay then tells which term of the step was the first.
"""

import contextlib
import functools

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError

GRID_COLUMNS = 8


def main() -> None:
    """Reads the flags and trains."""
    config, workdir = cli.required_config(), cli.required("workdir")
    cli.set_up_jax()
    options, verb = flags.FLAGS, train
    if options.replay:
        from xmc_jax.training.replay import replay as verb
    verb(config, workdir, options.data_dir, options.reader_workers, options.fsdp)


def train(
    config, workdir: str, data_dir: str, reader_workers: int | None = None, fsdp: int = 1
) -> None:
    """Trains until ``config.num_steps``, from the newest checkpoint of the workdir if it has any.

    Every process of a run calls it; the first one writes.

    Args:
      config: A resolved experiment; see `configs/shapes_32.py`.
      workdir: Folder of the run.
      data_dir: Folder of the prepared data sets.
      reader_workers: Worker processes that read; 0 for threads, chosen if None. Changes no result.
      fsdp: Devices that share one copy of the parameters. Changes no result but by rounding.

    Raises:
      UserError: a setting cannot work, something is missing, another process trains there, or a
        loss is no longer finite.
    """
    from xmc_jax import files
    from xmc_jax.parallel import processes
    from xmc_jax.run.config import check_same_networks, write_config
    from xmc_jax.run.folder import checkpoints_dir
    from xmc_jax.run.records import append_metrics
    from xmc_jax.training.interruption import Interruption

    with contextlib.ExitStack() as stack:
        # Act 1: the folder of the run: whether it is free, and whether this config belongs to it.
        interruption = stack.enter_context(Interruption())
        if processes.is_first():
            files.ensure_writable(workdir)
            stack.enter_context(files.only_one(workdir, "training in"))
        check_same_networks(workdir, config)

        # Act 2: data, networks, state. Loads Keras and TensorFlow, which no mistake about the
        # folder should wait for.
        from xmc_jax.data.catalog import open_eval_split, open_train_split
        from xmc_jax.experiment import create_experiment
        from xmc_jax.run import environment
        from xmc_jax.run.checkpoint import Checkpoints
        from xmc_jax.run.config_checks import check_config
        from xmc_jax.training.data import open_stream, read_preview

        check_config(config)
        with processes.first_process_first("open the data"):
            source = open_train_split(config, data_dir)
            eval_source = open_eval_split(config, data_dir)
        around = environment.describe()
        processes.say(f"devices: {around['devices']}")
        experiment = create_experiment(config, fsdp=fsdp)
        preview = read_preview(experiment, eval_source)
        if processes.is_first():
            write_config(workdir, config)
            _write_captions(workdir, preview.captions)
        checkpoints = stack.enter_context(
            Checkpoints(checkpoints_dir(workdir), keep_latest=config.keep_checkpoints)
        )
        state = _first_state(experiment, checkpoints, workdir)
        if (step := int(state.step)) >= config.num_steps:
            made_up = _make_up_evaluation(
                experiment, workdir, data_dir, checkpoints, preview, state
            )
            what = "nothing more to do" if made_up else "nothing to do"
            processes.say(f"{what}: {workdir} is at step {step} of {config.num_steps}")
            return

        if processes.is_first():
            append_metrics(workdir, [{"kind": "start", "step": int(state.step), **around}])

        # Act 3: the steps.
        from xmc_jax.training.evaluation import make_evaluation

        writer = stack.enter_context(_live_view(config, workdir, preview))
        training = _Training(
            experiment,
            checkpoints,
            workdir,
            open_stream=functools.partial(open_stream, experiment, source, reader_workers),
            writer=writer,
            draw=_make_preview(experiment, preview, workdir, writer),
            evaluate=make_evaluation(experiment, workdir, data_dir, checkpoints, writer),
            interruption=interruption,
        )
        step = _train_through_faults(training, state, experiment, checkpoints, workdir, source)
    end = "done" if step == config.num_steps else f"stopped before {config.num_steps}, and saved"
    processes.say(f"{end}: {workdir} is at step {step}")


def _train_through_faults(training, state, experiment, checkpoints, workdir, source) -> int:
    """The last step; after a fault that may be left out, training begins as after a restart."""
    from xmc_jax.training.faults import NotFinite

    while True:
        try:
            return training.take_steps(state)
        except NotFinite as fault:
            _write_fault(experiment, checkpoints, workdir, source, fault)
            state = _first_state(experiment, checkpoints, workdir)


def _first_state(experiment, checkpoints, workdir: str):
    """The state to go on from; forgets the numbers of what training will do anew."""
    import numpy as np

    from xmc_jax.parallel import processes, sharding
    from xmc_jax.run.records import truncate_metrics
    from xmc_jax.training import faults as nonfinite

    config = experiment.config
    checkpoints.wait()
    if checkpoints.latest_step() is None:
        state = experiment.init_state()
    else:
        state = checkpoints.restore(experiment.abstract_state())
    step = int(state.step)
    if step >= config.num_steps:
        return state
    if processes.is_first():
        truncate_metrics(workdir, step)
    faults = nonfinite.read_faults(workdir)
    if len(faults) <= config.max_nonfinite_skips:
        after = nonfinite.step_after(faults, step, config.num_steps)
        if after > step:
            processes.say(f"leaving out steps {step + 1} to {after}: the last is not finite")
            step = after
            state = state.replace(
                step=sharding.put(np.int32(step), sharding.replicated(experiment.mesh))
            )
    processes.say(f"training from step {step} to {config.num_steps}")
    return state


def _write_fault(experiment, checkpoints, workdir: str, source, fault) -> None:
    """Writes a step that is not finite down, with its examples.

    Raises:
      UserError: it is one too many to be left out.
    """
    from xmc_jax.data.streams import read_train_step
    from xmc_jax.parallel import processes
    from xmc_jax.run.folder import nonfinite_path
    from xmc_jax.training import faults as nonfinite

    config = experiment.config
    checkpoints.wait()
    restored = checkpoints.latest_step() or 0
    with processes.first_process_first(f"write down step {fault.step}"):
        if processes.is_first():
            examples = read_train_step(
                source,
                batch_size=config.batch_size,
                num_micro_batches=config.d_steps,
                seed=config.seed,
                step=fault.step - 1,
            )
            nonfinite.write_fault(
                workdir,
                nonfinite.Fault(fault.step, restored, fault.metric, str(fault.value), examples),
            )
    num_faults, num_skips = len(nonfinite.read_faults(workdir)), config.max_nonfinite_skips
    if num_faults > num_skips or fault.step >= config.num_steps:
        raise UserError(
            f"{fault}: the run stops, and its checkpoints up to step {restored} are good; "
            f"{nonfinite_path(workdir)} has the step's examples, and --replay tells which term "
            "fails first. Try a lower learning rate, --config.model.dtype=float32, or "
            f"--config.max_nonfinite_skips={max(num_faults, num_skips + 1)}, which goes back to "
            "the checkpoint and leaves the steps to it out"
        )
    processes.say(f"{fault}: going back to step {restored}")


def _write_captions(workdir: str, captions: list[str]) -> None:
    import json

    from xmc_jax import files
    from xmc_jax.run.folder import captions_path

    path, layout = captions_path(workdir), {"captions": captions, "columns": GRID_COLUMNS}
    files.write_whole(path, f"{json.dumps(layout, indent=2)}\n".encode())


@contextlib.contextmanager
def _live_view(config, workdir: str, preview):
    """TensorBoard's writer. TensorFlow writes, and has exceptions of its own for a full disk."""
    from xmc_jax.training import tensorboard

    try:
        writer = tensorboard.make_writer(workdir, config, preview.captions, GRID_COLUMNS)
        yield writer
        writer.close()
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow."):
            raise
        raise UserError(
            f"cannot write TensorBoard's events in {workdir}: {str(error).splitlines()[0]}; mend "
            "that and start again: the run goes on from its last checkpoint"
        ) from error


def _make_preview(experiment, preview, workdir: str, writer):
    """``draw(step, ema)``: the fixed captions' pictures, as a PNG in the workdir and an event."""
    from xmc_jax import files, images
    from xmc_jax.inference.sampler import Sampler
    from xmc_jax.parallel import processes
    from xmc_jax.run.folder import sample_path
    from xmc_jax.training.data import NUM_GRID_CAPTIONS

    sampler = Sampler(experiment, NUM_GRID_CAPTIONS)

    def draw(step: int, ema) -> None:
        drawn = sampler(ema, preview.tokens, seed=experiment.config.eval.seed)
        if processes.is_first():
            factor = max(1, 96 // experiment.config.model.resolution)
            grid = images.enlarge(images.make_grid(drawn, num_columns=GRID_COLUMNS), factor)
            files.write_whole(sample_path(workdir, step), images.encode_png(grid))
            writer.write_images(step, {"samples": grid[None]})

    return draw


def _make_up_evaluation(experiment, workdir, data_dir, checkpoints, preview, state) -> bool:
    """Measures the last step, if a run was cut off before that was over; whether it did."""
    from xmc_jax.training.evaluation import is_missing, make_evaluation

    config, step = experiment.config, int(state.step)
    if not is_missing(config, workdir, step):
        return False
    with _live_view(config, workdir, preview) as writer:
        evaluate = make_evaluation(experiment, workdir, data_dir, checkpoints, writer)
        return evaluate(step, state.ema)


class _Training:
    """The loop over the steps of a run; see `train` for its parts."""

    def __init__(
        self, experiment, checkpoints, workdir, *, open_stream, writer, draw, evaluate, interruption
    ):
        from xmc_jax.training.log import TrainLog

        self._experiment, self._checkpoints = experiment, checkpoints
        self._open_stream, self._interruption = open_stream, interruption
        self._draw, self._evaluate = draw, evaluate
        self._log = TrainLog(experiment.config, workdir, writer)
        self._step, self._rng = experiment.jit_train_step(), experiment.make_rng()

    def take_steps(self, state) -> int:
        """Trains from a state to the end, or to where a signal has it stop.

        Returns:
          The last step, which is saved.

        Raises:
          NotFinite: a metric is not finite; everything that was saved is.
        """
        from xmc_jax.parallel import sharding

        config, first_step = self._experiment.config, int(state.step)
        log, mesh, frozen = self._log, self._experiment.mesh, self._experiment.frozen
        eval_every_steps = config.eval.every_steps
        if eval_every_steps and first_step and first_step % eval_every_steps == 0:
            self._evaluate(first_step, state.ema)  # Unless it was before the run was cut off.
        log.begin()
        with contextlib.closing(self._open_stream(first_step)) as stream:
            for step in range(first_step + 1, config.num_steps + 1):
                batch = sharding.put_batch(next(stream), mesh, batch_axis=1)
                state, metrics = self._step(state, batch, frozen, self._rng)
                done, stopped = step == config.num_steps, self._interruption.is_due(step)
                log.add(step, metrics)
                # A checkpoint follows a look at the losses: what is not finite is never saved.
                if done or step % config.log_every_steps == 0 or step == first_step + 1:
                    log.flush()
                if done or step % config.sample_every_steps == 0:
                    self._draw(step, state.ema)
                if done or stopped or step % config.checkpoint_every_steps == 0:
                    log.flush()
                    self._checkpoints.save(step, state)
                if stopped:
                    break
                if eval_every_steps and step % eval_every_steps == 0:
                    log.flush()
                    self._evaluate(step, state.ema)
                    log.begin()  # What was not training does not count into the rate.
        return step


if __name__ == "__main__":
    cli.define_config_flag()
    cli.define_workdir_flag()
    cli.define_data_dir_flag()
    cli.define_process_flags()
    flags.DEFINE_integer(
        "fsdp",
        1,
        "Devices that share one copy of parameters, moments and averages, for networks that do not "
        "fit on one. Changes no result but by rounding.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "reader_workers",
        None,
        "Processes that read and decode; 0: threads of this one. Changes speed, never a result. "
        "Chosen by the number of cores if not given.",
        lower_bound=0,
    )
    flags.DEFINE_bool(
        "replay",
        False,
        "Take the last step that was not finite again, print every term of it, and write nothing.",
    )
    cli.run(main)
