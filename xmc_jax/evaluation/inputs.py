"""What metrics measure: prompts, the real pictures that belong to them, others, and drawn ones."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL
from etils import epath
from jaxtyping import Int32
from ml_collections import ConfigDict

from xmc_jax.data import catalog, streams
from xmc_jax.data.records import ExampleReader, draw_caption
from xmc_jax.errors import UserError
from xmc_jax.evaluation.image_sets import Pictures, fingerprint, make_shards, real_pictures
from xmc_jax.experiment import Experiment
from xmc_jax.parallel import processes

# A line of metrics.jsonl. A family gives: metric, protocol, value, floor, ceiling, weights (the
# judging network's fingerprint, or None), better ("higher" or "lower"); where it has an interval,
# low and high; where another count than that of the prompts is behind it, num_samples. `families`
# adds kind, step, generator (the drawing weights' fingerprint), split, seed, num_samples.
Record = dict[str, Any]

_RECORDS_AT_ONCE = 256


class Prompt(NamedTuple):
    """A caption to draw.

    Attributes:
      example_id: Image id of the example that it was drawn from.
      caption: The text.
      caption_index: Which of the example's captions it is.
      tokens: Its token ids for the run's own text encoder.
    """

    example_id: str
    caption: str
    caption_index: int
    tokens: Int32[np.ndarray, " t"]


@dataclasses.dataclass(frozen=True)
class Subjects:
    """What all checkpoints of a run are measured on; see `read_subjects`.

    Attributes:
      prompts: All of them, in every process.
      real: The pictures of the prompts' examples, in their order.
      others: More pictures of the split, as many or as there are; none of `real`.
    """

    prompts: Sequence[Prompt]
    real: Pictures
    others: Pictures


@dataclasses.dataclass(frozen=True)
class Material:
    """All that a metric may look at.

    Attributes:
      experiment: The run's networks, mesh and config.
      prompts: See `Subjects`.
      real: See `Subjects`.
      others: See `Subjects`.
      drawn: One picture a prompt, in their order, rounded to 8 bits.
      scratch: Folder of this very evaluation for what a killed process should find again (see
        `spill.ResumableRows`); removed when all is measured.
    """

    experiment: Experiment
    prompts: Sequence[Prompt]
    real: Pictures
    others: Pictures
    drawn: Pictures
    scratch: epath.Path

    @property
    def config(self) -> ConfigDict:
        """The run's configuration."""
        return self.experiment.config


def read_subjects(experiment: Experiment, data_dir: str) -> Subjects:
    """Chooses the prompts of ``config.eval`` and other pictures, and reads all but pixels.

    The choice, its order and its captions depend on the split and ``config.eval.seed`` alone.

    Raises:
      UserError: the data is not there, or too small.
    """
    config = experiment.config
    data, split, wanted = config.data, config.data.eval_split, config.eval.num_examples
    source = catalog.open_eval_split(config, data_dir)
    chosen = streams.choose_examples(len(source), 2 * wanted, config.eval.seed)
    count = min(wanted, len(chosen))
    if count < wanted:
        processes.say(
            f"notice: split {split} has {count} examples: all serve as prompts "
            f"(config.eval.num_examples={wanted})"
        )
    if count < 2:
        raise UserError(f"split {split} is too small to measure anything on")

    resolution, shares = config.model.resolution, make_shards(config.eval.batch_size)
    read = ExampleReader(source, resolution, data.crop, data.antialias, config.eval.seed)
    resizing = (resolution, data.crop, data.antialias, PIL.__version__)
    prompts, pixels_of = _read_prompts(source, chosen[:count], config.eval.seed, experiment)
    _, pixels_of_others = _read_prompts(source, chosen[count:], config.eval.seed)
    return Subjects(
        prompts,
        real_pictures("real", read, chosen[:count], fingerprint(pixels_of, resizing), shares),
        real_pictures(
            "other real", read, chosen[count:], fingerprint(pixels_of_others, resizing), shares
        ),
    )


def _read_prompts(
    source, indices: Sequence[int], seed: int, experiment: Experiment | None = None
) -> tuple[list[Prompt], str]:
    """The examples' captions, if there is a tokenizer, and the sha256 of their pictures."""
    prompts, pixels = [], hashlib.sha256()
    for start in range(0, len(indices), _RECORDS_AT_ONCE):
        part = indices[start : start + _RECORDS_AT_ONCE]
        records = source.read(part)
        for record in records:
            pixels.update(len(record["image"]).to_bytes(8, "little") + record["image"])
        if experiment:
            drawn = [draw_caption(r, seed, i) for r, i in zip(records, part, strict=True)]
            tokens = experiment.tokenizer([caption for _, caption in drawn])
            prompts += [
                Prompt(record["image/id"], caption, index, row)
                for record, (index, caption), row in zip(records, drawn, tokens, strict=True)
            ]
    return prompts, pixels.hexdigest()


def split_name(config: ConfigDict) -> str:
    """The split of evaluation, as protocols have it: with its data set, if that is another."""
    return " of ".join(x for x in (config.data.eval_split, config.data.eval_name) if x)


def short_count(count: int) -> str:
    """A number of samples, as metrics' names have it: ``30k`` for 30,000, ``999`` for 999."""
    return f"{count // 1000}k" if count % 1000 == 0 and count else str(count)
