"""``shapes_diversity``: how different the images of one caption are, against real images."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from ml_collections import ConfigDict

from xmc_jax.evaluation.families import shapes
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, split_name
from xmc_jax.metrics.diversity import mean_pairwise_distances
from xmc_jax.metrics.intervals import ratio_intervals
from xmc_jax.run.records import MetricRecord
from xmc_jax.shapes.captions import make_example, parse_id
from xmc_jax.shapes.fitting import find_scenes
from xmc_jax.shapes.forms import parse_form
from xmc_jax.shapes.scenes import Scene, render

_MAX_CAPTIONS = 64
_NUM_IMAGES = 8  # Of each caption.
_NUM_SEARCHED = 20_000  # Scenes; this takes a few seconds.


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return ("shapes_diversity",)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    reason = shapes.reason_unavailable(name, config, prompts)
    if not reason and parse_form(config.data.form).layout == "narrative":
        return "a narrative states so much that it fits one scene alone"
    return reason


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: 0, of images that are all equal. Ceiling: real images."""
    layout, resolution = parse_form(config.data.form).layout, config.model.resolution

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        wanted = num_captions(len(inputs.prompts))
        # A caption that states much, such as three objects, fits too few scenes.
        tried = tuple((p.example_id, p.caption_index) for p in inputs.prompts[: 2 * wanted])
        chosen = _choose(tried, layout)[:wanted]
        fields = {"num_samples": len(chosen) * _NUM_IMAGES, "value": None}
        if chosen:
            prompts = [inputs.prompts[c.index] for c in chosen for _ in range(_NUM_IMAGES)]
            generated = inputs.generate(prompts, "variants")
            pixels = generated.gather(np.concatenate(list(generated.batches())))
            real = [render(scene, resolution, layout) for c in chosen for scene in c.scenes]
            value, ceiling = (
                _summarise(x, inputs.config.eval.seed) for x in (pixels, np.stack(real))
            )
            fields["value"], fields["low"], fields["high"] = value
            fields["ceiling"], fields["ceiling_low"], fields["ceiling_high"] = ceiling
        record = inputs.record(
            metric=names[0],
            protocol=_protocol(inputs.config, wanted),
            **fields,
            floor=0.0,
            weights=None,
            better="higher",
        )
        return [record]

    return measure


def num_captions(num_prompts: int) -> int:
    """How many captions are measured: with few prompts fewer, because each needs many images."""
    return max(1, min(_MAX_CAPTIONS, num_prompts // _NUM_IMAGES))


def _protocol(config: ConfigDict, wanted: int) -> str:
    return (
        f"root mean squared difference of pixels in [0, 1], mean over the pairs of {_NUM_IMAGES} "
        f"noises of a caption, and over captions, {split_name(config)}, one caption an image drawn "
        f"with seed {config.eval.seed}: of the first {2 * wanted}, the first {wanted} that "
        f"are true of {_NUM_IMAGES} of the first {_NUM_SEARCHED} scenes of the split's generator; "
        f"ceiling: real images of the first {_NUM_IMAGES} such scenes; floor: all noises give one "
        "image; 95 % intervals by bootstrap over captions"
    )


class _Caption(NamedTuple):
    """A caption that fits enough scenes."""

    index: int  # Among the prompts.
    scenes: Sequence[Scene]


@functools.lru_cache(maxsize=1)
def _choose(tried: tuple[tuple[str, int], ...], layout: str) -> list[_Caption]:
    """The captions, given by example and index, that fit enough scenes; kept for a run's steps."""
    # Scenes of the prompts' own split: others have none of the pairs held out for `test_comp`.
    split, _ = parse_id(tried[0][0])
    forms = [make_example(*parse_id(id), layout).captions[i].form for id, i in tried]
    found = find_scenes(forms, split, layout, wanted=_NUM_IMAGES, searched=_NUM_SEARCHED)
    return [_Caption(i, scenes) for i, scenes in enumerate(found) if len(scenes) == _NUM_IMAGES]


def _summarise(pixels: UInt8[np.ndarray, "m h w 3"], seed: int) -> tuple[float, float, float]:
    """The diversity of captions whose images follow each other, and its interval."""
    distances = mean_pairwise_distances(pixels.reshape(-1, _NUM_IMAGES, *pixels.shape[1:]))
    ones = np.ones((len(distances), 1), np.int64)
    low, high = ratio_intervals(distances[:, None], ones, seed=seed)[0].tolist()
    return float(distances.mean()), low, high
