"""Reading the examples of an evaluation: prompts, their real images, and other real images."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import PIL
from ml_collections import ConfigDict

from xmc_jax.data import catalog, streams
from xmc_jax.data.prefetch import ReadAhead
from xmc_jax.data.records import ExampleReader, Records, Selection, draw_caption
from xmc_jax.errors import UserError
from xmc_jax.evaluation.image_sets import ImageSet, Pixels, fingerprint, make_shards
from xmc_jax.evaluation.inputs import Prompt, Prompts
from xmc_jax.experiment import Experiment
from xmc_jax.parallel import processes

_RECORDS_AT_ONCE = 256
_MAX_TRAINING_IMAGES = 10_000


class EvalExamples(NamedTuple):
    """The examples on which all checkpoints of a run are measured; see `EvalInputs`."""

    prompts: Prompts
    real: ImageSet
    other_real: ImageSet


def read_examples(experiment: Experiment, data_dir: str) -> EvalExamples:
    """Chooses the examples that ``config.eval`` asks for and reads everything but pixels.

    The choice, its order and the captions depend only on the split and ``config.eval.seed``.

    Raises:
      UserError: the data is missing or too small.
    """
    config = experiment.config
    data, wanted, seed = config.data, config.eval.num_examples, config.eval.seed
    split, source = data.eval_split, catalog.open_eval_split(config, data_dir)
    chosen = streams.choose_examples(len(source), 2 * wanted, seed)
    count = min(wanted, len(chosen))
    if count < wanted:
        processes.say(
            f"notice: split {split} has {count} examples: all serve as prompts "
            f"(config.eval.num_examples={wanted})"
        )
    if count < 2:
        raise UserError(
            f"an evaluation needs 2 examples: split {split} has {len(source)}, and "
            f"config.eval.num_examples is {wanted}; raise that, or choose a larger split"
        )

    prompts, files = _read_prompts(source, chosen[:count], seed, experiment)
    _, other_files = _read_prompts(source, chosen[count:], seed)
    return EvalExamples(
        prompts,
        _real_images("real", files, source, chosen[:count], config),
        _real_images("other real", other_files, source, chosen[count:], config),
    )


def open_training_images(experiment: Experiment, data_dir: str) -> ImageSet:
    """Images of the split that a run is trained on, as they are evaluated: never mirrored.

    All of them, or the first 10,000 of a permutation that depends on ``config.eval.seed``.

    Raises:
      UserError: the data is missing.
    """
    config = experiment.config
    source, seed = catalog.open_train_split(config, data_dir), config.eval.seed
    chosen = streams.choose_examples(len(source), _MAX_TRAINING_IMAGES, seed)
    _, files = _read_prompts(source, chosen, seed)
    return _real_images("training", files, source, chosen, config)


def _read_prompts(
    source: Records, indices: Sequence[int], seed: int, experiment: Experiment | None = None
) -> tuple[list[Prompt], str]:
    """The prompts of examples (none without an experiment), and the sha256 of the image files."""
    prompts, files = [], hashlib.sha256()
    for start in range(0, len(indices), _RECORDS_AT_ONCE):
        part = indices[start : start + _RECORDS_AT_ONCE]
        records = source.read(part)
        for record in records:
            files.update(len(record["image"]).to_bytes(8, "little") + record["image"])
        if experiment:
            captions = [draw_caption(r, seed, i) for r, i in zip(records, part, strict=True)]
            tokens = experiment.tokenizer([text for _, text in captions])
            prompts += [
                Prompt(record["image/id"], text, index, row)
                for record, (index, text), row in zip(records, captions, tokens, strict=True)
            ]
    return prompts, files.hexdigest()


def _real_images(
    name: str, files: str, source: Records, indices: Sequence[int], config: ConfigDict
) -> ImageSet:
    """Images of a split, which threads decode and resize ahead of their use."""
    resolution, data = config.model.resolution, config.data
    reader = ExampleReader(source, resolution, data.crop, data.antialias, config.eval.seed)
    identity = fingerprint(files, (resolution, data.crop, data.antialias, PIL.__version__))
    shards = make_shards(config.eval.batch_size)

    def open_batches() -> Iterator[Pixels]:
        ranges = shards.ranges(len(indices))
        counts = iter(map(len, ranges))
        # A reader needs at least one record; if this process has none, the count drops it.
        chosen = ([indices[i] for i in part] or [indices[-1]] for part in ranges)
        selections = (Selection(part, part) for part in chosen)
        return ReadAhead(reader, selections, lambda examples: examples.image[: next(counts)])

    return ImageSet(name, len(indices), identity, shards, open_batches)
