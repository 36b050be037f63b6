"""From an experiment and names of metrics to a function that measures its checkpoints."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from etils import epath

from xmc_jax.evaluation import generation, results, selection
from xmc_jax.evaluation.examples import open_training_images, read_examples
from xmc_jax.evaluation.image_sets import ImageSet
from xmc_jax.evaluation.inputs import EvalInputs, Prompts
from xmc_jax.evaluation.resume import measuring_alone, remove
from xmc_jax.experiment import Experiment
from xmc_jax.parallel import processes
from xmc_jax.run.folder import evaluation_dir
from xmc_jax.run.records import MetricRecord
from xmc_jax.types import PyTree


class Evaluator(NamedTuple):
    """Measures the checkpoints of a run; made by `create_evaluator`.

    Attributes:
      names: The metrics under the names in their records, without parts.
      measure: ``measure(step, ema)``: measures a checkpoint, appends the records to metrics.jsonl
        and returns them; all processes must call it. After a kill, a second call with the same
        arguments resumes. Raises UserError if another process is measuring the same images, or a
        file cannot be written.
    """

    names: tuple[str, ...]
    measure: Callable[[int, PyTree], list[MetricRecord]]


def create_evaluator(
    experiment: Experiment, names: Sequence[str], *, workdir: epath.PathLike, data_dir: str
) -> Evaluator:
    """Reads the examples and loads the networks of the metrics, once for all checkpoints.

    A metric that the prompts rule out is refused before images are generated if it was asked for;
    otherwise a notice tells that it is left out.

    Args:
      experiment: The run's.
      names: Metrics asked for; empty for all that are available.
      workdir: Generated images stay in this folder until they are measured.
      data_dir: Folder of the prepared data sets.

    Raises:
      UserError: a metric is not available for the run; weights or data are missing or do not fit.
    """
    config = experiment.config
    wanted = selection.choose_metrics(names, config)
    with processes.first_process_first("read the examples"):
        examples = read_examples(experiment, data_dir)
    prompts, known = examples.prompts, selection.family_of_each(config)
    chosen = selection.choose_metrics(names, config, prompts)
    for name in wanted:
        if name not in chosen:
            reason = known[name].reason_unavailable(name, config, prompts)
            processes.say(f"notice: no {name}: {reason}")
    measures = [
        family.make_measure(config, experiment.mesh, own)
        for family in selection.FAMILIES
        if (own := [name for name in chosen if known[name] is family])
    ]
    generate = generation.ImageGenerator(experiment)
    # Read once for all checkpoints, and not at all without a metric that needs them.
    open_training = functools.cache(lambda: open_training_images(experiment, data_dir))

    def measure(step: int, ema: PyTree) -> list[MetricRecord]:
        generator = generation.fingerprint_weights(ema, experiment.mesh)
        identity = generation.fingerprint_generation(config, generator, prompts)
        scratch = evaluation_dir(workdir, step, identity)

        def generate_more(prompts: Prompts, name: str) -> ImageSet:
            identity = generation.fingerprint_generation(config, generator, prompts)
            return generate(ema, prompts, folder=scratch, identity=identity, name=name)

        with measuring_alone(scratch):
            inputs = EvalInputs(
                config,
                *examples,
                generated=generate(ema, prompts, folder=scratch, identity=identity),
                generate=generate_more,
                scratch=scratch,
                step=step,
                generator=generator,
                open_training=open_training,
            )
            records = [record for measure in measures for record in measure(inputs)]
            results.write_records(workdir, records)
            processes.wait_for_all(f"measure {identity}")  # Others may still read the folder.
            remove(scratch)
        return records

    return Evaluator(selection.recorded_names(chosen, config, len(prompts)), measure)
