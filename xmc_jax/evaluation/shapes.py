"""``shapes_accuracy/*``: does the picture show what its caption says, on the shapes data."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from xmc_jax.data import shapes, shapes_captions
from xmc_jax.evaluation.material import Material, Prompt, Record, split_name
from xmc_jax.evaluation.pictures import Pictures
from xmc_jax.experiment import Experiment, evaluation_data
from xmc_jax.metrics import shapes_accuracy as metric


def names(config: ConfigDict) -> tuple[str, ...]:
    """The metrics of this family."""
    return ("shapes_accuracy",)


def why_unfit(name: str, config: ConfigDict) -> str | None:
    """Why a metric cannot judge a run; None if it can."""
    data = evaluation_data(config)
    if data != "shapes":
        return f"the run is evaluated on {data}, which has no logical forms"
    return None


def make_measure(
    experiment: Experiment, names: Sequence[str]
) -> Callable[[Material], list[Record]]:
    """Accuracy of every attribute; ceiling: real images; floor: other images' captions."""
    config = experiment.config
    parse = metric.make_parser(
        resolution=config.model.resolution,
        palette=shapes.COLOURS,
        backgrounds=shapes.BACKGROUNDS,
        shapes=shapes.SHAPES,
        sizes={name: radius / shapes.GRID for name, radius in shapes.SIZES.items()},
        silhouette=shapes.silhouette,
    )

    def measure(material: Material) -> list[Record]:
        forms = [claims(config, prompt) for prompt in material.prompts]
        shuffled = [forms[i] for i in metric.shuffle_captions(len(forms), config.eval.seed)]
        drawn, real = material.drawn.map(parse), material.real.map(parse)
        value = _accuracy(_tally(material.drawn, drawn, forms))
        floor = _accuracy(_tally(material.drawn, drawn, shuffled))
        ceiling = _accuracy(_tally(material.real, real, forms))
        return [
            {
                "metric": f"shapes_accuracy/{name}",
                "protocol": (
                    f"analytic reader, {split_name(config)}, one caption an image drawn with seed "
                    f"{config.eval.seed}; ceiling: real images; floor: captions shuffled"
                ),
                "value": value[name][0],
                "floor": floor[name][0],
                "ceiling": ceiling[name][0],
                "claims": value[name][1],
                "weights": None,
                "better": "higher",
            }
            for name in value
        ]

    return measure


def claims(config: ConfigDict, prompt: Prompt) -> tuple[metric.Form, ...]:
    """The logical forms of a prompt."""
    if config.data.form.startswith("narrative_"):
        split, _, number = prompt.example_id.rpartition("-")
        return shapes_captions.make_narrative(split, int(number))[1].forms
    captions = shapes_captions.example_from_id(prompt.example_id).captions
    return (captions[prompt.caption_index].form,)


def _tally(
    pictures: Pictures, scenes: Sequence[metric.ParsedScene], forms: Sequence[tuple]
) -> Int[np.ndarray, "n attributes 2"]:
    """Hits and claims of every attribute, for each prompt of all processes.

    Args:
      pictures: What was read.
      scenes: What was seen in this process's share of them.
      forms: Claims of all prompts.
    """
    own = pictures.shares.own(forms)
    table = np.zeros((len(scenes), len(metric.ATTRIBUTES), 2), np.int64)
    for row, scene, claimed in zip(table, scenes, own, strict=True):
        for form in claimed:
            for name, pair in metric.score(scene, form).items():
                row[metric.ATTRIBUTES.index(name)] += pair
    return pictures.gather(table)


def _accuracy(tally: Int[np.ndarray, "n attributes 2"]) -> dict[str, tuple[float, int]]:
    """Share of hits among the claims, and how many there are, of what is claimed at all."""
    totals = zip(metric.ATTRIBUTES, tally.sum(axis=0).tolist(), strict=True)
    return {name: (hits / claims, claims) for name, (hits, claims) in totals if claims}
