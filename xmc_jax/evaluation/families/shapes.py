"""``shapes_accuracy/*``: whether images of the shapes data show what their captions say."""

from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from xmc_jax.data.overlap import evaluation_data
from xmc_jax.evaluation.image_sets import ImageSet
from xmc_jax.evaluation.inputs import (
    EvalInputs,
    Measure,
    Prompt,
    Prompts,
    interval_fields,
    split_name,
)
from xmc_jax.run.records import MetricRecord
from xmc_jax.shapes import accuracy as metric
from xmc_jax.shapes import captions
from xmc_jax.shapes.forms import parse_form
from xmc_jax.shapes.parser import make_parser
from xmc_jax.shapes.scorer import PACKAGED, load_scorer

METRICS = ("shapes_accuracy", "shapes_accuracy_trained")


class Reader(NamedTuple):
    """A function that finds out what images show.

    Attributes:
      name: As protocols have it.
      read: ``images -> scenes``.
      weights: Fingerprint of its weights; None if it has none.
    """

    name: str
    read: metric.Reader
    weights: str | None


def make_reader(name: str, resolution: int, layout: str = "full") -> Reader:
    """The reader that one of `METRICS` uses, for square images of this side, of one of `LAYOUTS`.

    Its name has the layout if objects are not where they are in the full one: their accuracies
    cannot be compared.
    """
    where = "" if layout in ("full", "narrative") else f" for layout {layout}"
    if name == "shapes_accuracy_trained":
        scorer = load_scorer(PACKAGED[layout])
        return Reader(f"trained reader{where}", scorer.read, scorer.fingerprint)
    return Reader(f"analytic reader{where}", make_parser(resolution, layout), None)


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return METRICS


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    data = evaluation_data(config)
    if data != "shapes":
        return f"the run is evaluated on {data}, which has no logical forms"
    return None


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: captions of other images. Ceiling: real images."""
    layout = parse_form(config.data.form).layout
    readers = {name: make_reader(name, config.model.resolution, layout) for name in names}

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        forms = [claims(inputs.config, prompt) for prompt in inputs.prompts]
        return [
            record
            for name, reader in readers.items()
            for record in _measure_with(name, reader, inputs, forms)
        ]

    return measure


def _measure_with(
    name: str, reader: Reader, inputs: EvalInputs, forms: Sequence[tuple]
) -> list[MetricRecord]:
    """One record for each attribute that captions mention."""
    config, seed = inputs.config, inputs.config.eval.seed
    generated, real = (images.map(reader.read) for images in (inputs.generated, inputs.real))
    shuffled = [forms[i] for i in metric.shuffle_captions(len(forms), seed)]
    value = _accuracies(inputs.generated, generated, forms, seed)
    floor = _accuracies(inputs.generated, generated, shuffled, seed)
    ceiling = _accuracies(inputs.real, real, forms, seed)
    protocol = (
        f"{reader.name}, {split_name(config)}, one caption an image drawn with seed {seed}; "
        "ceiling: real images; floor: captions shuffled; 95 % intervals by bootstrap over images"
    )
    return [
        inputs.record(
            metric=f"{name}/{attribute}",
            protocol=protocol,
            **interval_fields(accuracy, floor[attribute], ceiling[attribute]),
            claims=accuracy.claims,
            weights=reader.weights,
            better="higher",
        )
        for attribute, accuracy in value.items()
    ]


def claims(config: ConfigDict, prompt: Prompt) -> tuple[captions.Form, ...]:
    """The logical forms of a prompt."""
    # Another data set for evaluation (`data.eval_name`) is in the same form.
    layout = parse_form(config.data.form).layout
    split, index = captions.parse_id(prompt.example_id)
    if layout == "narrative":
        return captions.make_narrative(split, index)[1].forms
    example = captions.make_example(split, index, layout)
    return (example.captions[prompt.caption_index].form,)


def _accuracies(
    images: ImageSet, scenes: Sequence[metric.ParsedScene], forms: Sequence[tuple], seed: int
) -> dict[str, metric.Accuracy]:
    """The accuracy of each attribute; scenes are those of this process, forms those of all."""
    counts = metric.count_claims(scenes, images.shards.own(forms))
    return metric.summarise(images.gather(counts), seed=seed)
