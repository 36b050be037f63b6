"""What metrics measure: prompts, their real images, other real images, and generated ones."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Int32
from ml_collections import ConfigDict

from xmc_jax.evaluation.image_sets import ImageSet
from xmc_jax.run.records import MetricRecord


class Prompt(NamedTuple):
    """A caption that the generator is given.

    Attributes:
      example_id: Image id of the example that the caption belongs to.
      caption: The text.
      caption_index: Index among the captions of the example.
      tokens: Token ids for the text encoder of the run.
    """

    example_id: str
    caption: str
    caption_index: int
    tokens: Int32[np.ndarray, " t"]


Prompts = Sequence[Prompt]


@dataclasses.dataclass(frozen=True)
class EvalInputs:
    """Everything that the metrics of one checkpoint are computed from.

    Attributes:
      config: The run's.
      prompts: All prompts, in every process.
      real: The images of the prompts' examples, in their order.
      other_real: More images of the split, as many as `real` or as there are; none of `real`.
      generated: One image for each prompt, in their order, rounded to 8 bits.
      generate: ``generate(prompts, name)``: more generated images, one for each of any prompts. The
        noise of an image depends on its index, so a prompt may occur several times. The name is
        that of the set; a killed evaluation finds the images again by it. All processes must call
        it.
      scratch: Folder where a killed evaluation finds its intermediate results again (see
        `ResumableRows`); removed when everything is measured.
      step: Training step of the generator.
      generator: Fingerprint of the generator's weights.
      open_training: Opens images of the split that the run is trained on, at most 10,000. All
        processes must call it.
    """

    config: ConfigDict
    prompts: Prompts
    real: ImageSet
    other_real: ImageSet
    generated: ImageSet
    generate: Callable[[Prompts, str], ImageSet]
    scratch: epath.Path
    step: int
    generator: str
    open_training: Callable[[], ImageSet]

    def record(self, **fields: Any) -> MetricRecord:
        """A record with these fields. Step, generator, split and seed need not be given.

        The default of ``num_samples`` is the number of generated images.
        """
        about = {
            "step": self.step,
            "generator": self.generator,
            "split": split_name(self.config),
            "num_samples": len(self.generated),
            "seed": self.config.eval.seed,
        }
        return MetricRecord(**about | fields)


Measure = Callable[[EvalInputs], list[MetricRecord]]


def split_name(config: ConfigDict) -> str:
    """The evaluation split as protocols name it: with its data set, if that is another one."""
    return " of ".join(x for x in (config.data.eval_split, config.data.eval_name) if x)


@runtime_checkable
class Estimate(Protocol):
    """A number with its interval."""

    value: float
    low: float
    high: float


def interval_fields(value: Estimate, floor: Estimate, ceiling: Estimate) -> dict[str, float]:
    """The fields of a `MetricRecord` for three numbers that all have intervals."""
    return {
        "value": value.value,
        "low": value.low,
        "high": value.high,
        "floor": floor.value,
        "floor_low": floor.low,
        "floor_high": floor.high,
        "ceiling": ceiling.value,
        "ceiling_low": ceiling.low,
        "ceiling_high": ceiling.high,
    }


def reason_too_few(needed: int, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """Why a metric that needs a number of images is unavailable, or None; see `selection`."""
    if config.eval.num_examples < needed:
        return f"it needs config.eval.num_examples of {needed} or more"
    if prompts is not None and len(prompts) < needed:
        return f"it needs {needed} prompts, and {split_name(config)} has {len(prompts)}"
    return None


def real_images_protocol(inputs: EvalInputs) -> str:
    """What metrics of whole sets say of their images in a protocol."""
    config = inputs.config
    return (
        f"{split_name(config)} at {config.model.resolution} px ({config.data.form}, "
        f"{config.data.crop}), {len(inputs.real)} real images; floor: {len(inputs.other_real)} "
        "others for drawn"
    )


def short_count(count: int) -> str:
    """A number of samples as metric names have it: ``30k`` for 30,000, ``999`` for 999."""
    return f"{count // 1000}k" if count % 1000 == 0 and count else str(count)
