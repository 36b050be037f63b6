"""The training loop: resumes a run, takes its steps, saves, previews and measures on the way."""

import contextlib
import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
from ml_collections import ConfigDict

from xmc_jax.console import notice
from xmc_jax.data import catalog
from xmc_jax.data.records import Records
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.parallel import processes, sharding
from xmc_jax.run import environment
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import write_config
from xmc_jax.run.config_checks import check_training
from xmc_jax.run.folder import checkpoints_dir, config_path
from xmc_jax.run.records import append_metrics, truncate_metrics
from xmc_jax.train_state import TrainState
from xmc_jax.training import faults, tensorboard
from xmc_jax.training.compilation import compile_in_background
from xmc_jax.training.data import open_stream
from xmc_jax.training.evaluation import is_missing, make_periodic_evaluation
from xmc_jax.training.interruption import Interruption
from xmc_jax.training.log import TrainLog
from xmc_jax.training.preview import NUM_COLUMNS, Preview
from xmc_jax.training.probe import SwapProbe, make_probe
from xmc_jax.training.profile import Profiler
from xmc_jax.training.projection import fit_projection
from xmc_jax.training.trained_start import TrainedStart
from xmc_jax.types import PyTree


def train(
    config: ConfigDict,
    workdir: str,
    data_dir: str,
    interruption: Interruption,
    reader_workers: int | None,
    fsdp: int,
    profiled_steps: range,
    init_from: str | None,
    init_partial: bool,
) -> None:
    """Trains in a folder that is claimed; see `start.train`."""
    check_training(config)
    with processes.first_process_first("open the data"):
        source = catalog.open_train_split(config, data_dir)
        eval_source = catalog.open_eval_split(config, data_dir)
    around = environment.describe()
    processes.say(f"devices: {around['devices']}")
    experiment = create_experiment(config, fsdp=fsdp)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(checkpoints_dir(workdir), keep_latest=config.keep_checkpoints)
        )
        latest_step, trained_start = checkpoints.latest_step(), None
        if init_from and latest_step is None:
            trained_start = TrainedStart(experiment, init_from, is_partial=init_partial, fsdp=fsdp)
        has_steps = (latest_step or 0) < config.num_steps
        compiled_step = compile_in_background(experiment) if has_steps else None
        if config.text.projection:
            experiment = _project_text(experiment, trained_start, workdir, source)
        preview = Preview(experiment, eval_source, workdir)
        probe = make_probe(experiment, eval_source, workdir)
        writer = stack.enter_context(
            tensorboard.open_writer(workdir, config, preview.captions, NUM_COLUMNS)
        )
        profiler = stack.enter_context(contextlib.closing(Profiler(workdir, profiled_steps)))
        training = Training(
            experiment,
            compiled_step,
            trained_start,
            checkpoints,
            workdir,
            data_dir,
            source,
            preview,
            probe,
            writer,
            profiler,
            interruption,
        )
        state = training.restore_or_init()
        # A start that trains nothing leaves the record of how the weights were trained.
        if processes.is_first() and (has_steps or not config_path(workdir).exists()):
            write_config(workdir, config)
            preview.write_captions()
        if trained_start:
            around |= {"init_from": init_from}
        if (step := int(state.step)) >= config.num_steps:
            measured = training.measure_missed_evaluation(step, state.ema)
            what = "nothing more to do" if measured else "nothing to do"
            processes.say(f"{what}: {workdir} is at step {step} of {config.num_steps}")
            return
        missed = profiled_steps and not step < profiled_steps.start <= config.num_steps
        if missed and processes.is_first():
            notice(f"there is no profile: the steps are {step + 1} to {config.num_steps}")
        if processes.is_first():
            append_metrics(workdir, [{"kind": "start", "step": step, **around}])
        step = training.run(state, reader_workers)
    end = "done" if step == config.num_steps else f"stopped before {config.num_steps}, and saved"
    processes.say(f"{end}: {workdir} is at step {step}")


def _project_text(
    experiment: Experiment, trained_start: TrainedStart | None, workdir: str, source: Records
) -> Experiment:
    """The experiment with the run's projection of the text, which the first process finds."""
    with processes.first_process_first("fit the projection of the text"):
        if processes.is_first():
            is_there = trained_start and trained_start.copy_projection(workdir)
            if not is_there:
                fit_projection(experiment, workdir, source)
    return experiment.with_projection(workdir)


@dataclasses.dataclass(frozen=True)
class Training:
    """A run that trains: its parts, and the loop over its steps.

    Attributes:
      experiment: Networks, mesh and config.
      compiled_step: The training step; None if none is left to take.
      trained_start: What a run without checkpoints starts from; None for random parameters.
      checkpoints: Checkpoints of the run.
      workdir: Folder of the run.
      data_dir: Folder of the prepared data sets.
      source: The training split.
      preview: Generates the grids of samples.
      probe: Tests the discriminator with swapped words, or None.
      writer: Of TensorBoard's events.
      profiler: Records the steps that `--profile` names.
      interruption: Tells when a signal asks to stop.
    """

    experiment: Experiment
    compiled_step: Future[jax.stages.Compiled] | None
    trained_start: TrainedStart | None
    checkpoints: Checkpoints
    workdir: str
    data_dir: str
    source: Records
    preview: Preview
    probe: SwapProbe | None
    writer: Any
    profiler: Profiler
    interruption: Interruption

    def restore_or_init(self) -> TrainState:
        """State to resume from; drops logged metrics of steps that will be repeated."""
        config, checkpoints = self.experiment.config, self.checkpoints
        checkpoints.wait()
        if checkpoints.latest_step() is None:
            state = self.experiment.init_state()
            if self.trained_start:
                tokens = self.preview.tokens
                state = self.trained_start.apply(self.experiment, state, tokens)
        else:
            state = checkpoints.restore(self.experiment.abstract_state())
        step = int(state.step)
        if step >= config.num_steps:
            return state
        if processes.is_first():
            truncate_metrics(self.workdir, step)
        known = faults.read_faults(self.workdir)
        if len(known) <= config.max_nonfinite_skips:
            after = faults.step_after(known, step, config.num_steps)
            if after > step:
                processes.say(f"skipping steps {step + 1} to {after}: the last is not finite")
                state = faults.skip(state, after, self.experiment.mesh)
        processes.say(f"training from step {int(state.step)} to {config.num_steps}")
        return state

    def run(self, state: TrainState, reader_workers: int | None) -> int:
        """Trains to the end; after a tolerated fault, restores the last checkpoint and continues.

        Args:
          state: State to start from; it is donated.
          reader_workers: See `start.train`.

        Returns:
          The last step, which is saved: that of the end, or of the signal to stop.

        Raises:
          UserError: a metric is not finite, and the config tolerates no more of these faults.
        """
        evaluate = self._make_evaluation()
        log = TrainLog(self.experiment.config, self.workdir, self.writer)
        rng = self.experiment.make_rng()
        while True:
            stream = open_stream(self.experiment, self.source, reader_workers, int(state.step))
            try:
                with contextlib.closing(stream):
                    return self._take_steps(state, stream, rng, log, evaluate)
            except faults.NotFinite as fault:
                self.checkpoints.wait()
                restored = self.checkpoints.latest_step() or 0
                faults.record(fault, restored, self.workdir, self.experiment.config, self.source)
                state = self.restore_or_init()

    def _take_steps(self, state: TrainState, stream, rng, log, evaluate) -> int:
        """Trains to the end, or to where a signal asks to stop; returns the last step.

        Raises:
          NotFinite: a metric is not finite; nothing that depends on it is saved.
        """
        config, first_step = self.experiment.config, int(state.step)
        mesh, frozen = self.experiment.mesh, self.experiment.frozen
        eval_every_steps = config.eval.every_steps
        if eval_every_steps and first_step and first_step % eval_every_steps == 0:
            evaluate(first_step, state.ema)  # Unless it was measured before the run was cut off.
        log.begin()
        train_step = self.compiled_step.result()
        for step in range(first_step + 1, config.num_steps + 1):
            with self.profiler.step(step):
                batch = sharding.put_batch(next(stream), mesh, batch_axis=1)
                state, metrics = train_step(state, batch, frozen, rng)
            self.profiler.end(step, metrics)
            done, stopped = step == config.num_steps, self.interruption.is_due(step)
            log.add(step, metrics)
            # Losses are checked before every checkpoint: what is not finite is never saved.
            if done or step % config.log_every_steps == 0 or step == first_step + 1:
                log.flush()
            if done or step % config.sample_every_steps == 0:
                log.flush()
                self.preview.generate(step, state.ema, self.writer)
                if self.probe:
                    self.probe.measure(step, state, self.writer)
                log.begin()  # Time spent on other things than training does not count.
            if done or stopped or step % config.checkpoint_every_steps == 0:
                log.flush()
                self.checkpoints.save(step, state)
            if stopped:
                break
            if eval_every_steps and step % eval_every_steps == 0:
                log.flush()
                evaluate(step, state.ema)
                log.begin()
        return step

    def measure_missed_evaluation(self, step: int, ema: PyTree) -> bool:
        """Measures the last step if the run was cut off before that was done; whether it did."""
        if not is_missing(self.experiment.config, self.workdir, step):
            return False
        return self._make_evaluation()(step, ema)

    def _make_evaluation(self) -> Callable[[int, PyTree], bool] | None:
        return make_periodic_evaluation(
            self.experiment, self.workdir, self.data_dir, self.checkpoints
        )
