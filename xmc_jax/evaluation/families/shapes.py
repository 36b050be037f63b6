"""``shapes_accuracy/*``: does the picture show what its caption says, on the shapes data."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from xmc_jax.evaluation.image_sets import Pictures
from xmc_jax.evaluation.inputs import Material, Prompt, Record, split_name
from xmc_jax.experiment import Experiment
from xmc_jax.run.config_checks import evaluation_data
from xmc_jax.shapes import accuracy as metric
from xmc_jax.shapes import captions
from xmc_jax.shapes.parser import make_parser
from xmc_jax.shapes.scorer import load_scorer

METRICS = ("shapes_accuracy", "shapes_accuracy_trained")


class Reader(NamedTuple):
    """Something that tells what images show.

    Attributes:
      name: As protocols have it.
      read: ``images -> scenes``.
      weights: Fingerprint of its weights; None if it has none.
    """

    name: str
    read: metric.Reader
    weights: str | None


def make_reader(name: str, resolution: int) -> Reader:
    """The reader behind one of `METRICS`.

    Args:
      name: The metric.
      resolution: Side of the images.
    """
    if name == "shapes_accuracy_trained":
        scorer = load_scorer()
        return Reader("trained reader", scorer.read, scorer.fingerprint)
    return Reader("analytic reader", make_parser(resolution), None)


def names(num_prompts: int) -> tuple[str, ...]:
    """The metrics of this family."""
    return METRICS


def reason_unavailable(
    name: str, config: ConfigDict, prompts: Sequence[Prompt] | None = None
) -> str | None:
    """Why a metric cannot judge a run; None if it can, as far as prompts, if given, tell."""
    data = evaluation_data(config)
    if data != "shapes":
        return f"the run is evaluated on {data}, which has no logical forms"
    return None


def make_measure(
    experiment: Experiment, names: Sequence[str]
) -> Callable[[Material], list[Record]]:
    """Accuracy of every attribute; ceiling: real images; floor: other images' captions."""
    readers = {name: make_reader(name, experiment.config.model.resolution) for name in names}

    def measure(material: Material) -> list[Record]:
        config, seed = material.config, material.config.eval.seed
        forms = [claims(config, prompt) for prompt in material.prompts]
        shuffled = [forms[i] for i in metric.shuffle_captions(len(forms), seed)]
        return [
            record
            for name, reader in readers.items()
            for record in _records(name, reader, material, forms, shuffled)
        ]

    return measure


def _records(
    name: str,
    reader: Reader,
    material: Material,
    forms: Sequence[tuple],
    shuffled: Sequence[tuple],
) -> list[Record]:
    """What one reader says of each attribute."""
    config, seed = material.config, material.config.eval.seed
    drawn, real = material.drawn.map(reader.read), material.real.map(reader.read)
    value = metric.summarise(_count(material.drawn, drawn, forms), seed=seed)
    floor = metric.summarise(_count(material.drawn, drawn, shuffled), seed=seed)
    ceiling = metric.summarise(_count(material.real, real, forms), seed=seed)
    protocol = (
        f"{reader.name}, {split_name(config)}, one caption an image drawn with seed {seed}; "
        "ceiling: real images; floor: captions shuffled; 95 % intervals by bootstrap over images"
    )
    return [
        {
            "metric": f"{name}/{attribute}",
            "protocol": protocol,
            "value": accuracy.value,
            "low": accuracy.low,
            "high": accuracy.high,
            "floor": floor[attribute].value,
            "floor_low": floor[attribute].low,
            "floor_high": floor[attribute].high,
            "ceiling": ceiling[attribute].value,
            "ceiling_low": ceiling[attribute].low,
            "ceiling_high": ceiling[attribute].high,
            "claims": accuracy.claims,
            "weights": reader.weights,
            "better": "higher",
        }
        for attribute, accuracy in value.items()
    ]


def claims(config: ConfigDict, prompt: Prompt) -> tuple[captions.Form, ...]:
    """The logical forms of a prompt."""
    if config.data.form.startswith("narrative_"):
        return captions.make_narrative(*captions.parse_id(prompt.example_id))[1].forms
    example = captions.make_example(*captions.parse_id(prompt.example_id))
    return (example.captions[prompt.caption_index].form,)


def _count(pictures: Pictures, scenes: Sequence[metric.ParsedScene], forms: Sequence[tuple]):
    """Hits and claims of all prompts, of which this process has a share; see `count_claims`."""
    return pictures.gather(metric.count_claims(scenes, pictures.shares.own(forms)))
