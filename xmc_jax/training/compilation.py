"""Compiles the training step while the run prepares what the first step needs."""

from concurrent.futures import Future, ThreadPoolExecutor

import jax

from xmc_jax.experiment import Experiment


def compile_in_background(experiment: Experiment) -> "Future[jax.stages.Compiled]":
    """Starts to compile `Experiment.jit_train_step`, for which shapes are enough."""

    def compile_step() -> jax.stages.Compiled:
        step = experiment.jit_train_step()
        return step.lower(*experiment.abstract_step_arguments()).compile()

    with_one_thread = ThreadPoolExecutor(1, thread_name_prefix="compile the step")
    compiled = with_one_thread.submit(compile_step)
    with_one_thread.shutdown(wait=False)
    return compiled
