"""The model card of an exported model: its training, metrics, intended use and limits."""

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import huggingface_hub
import jax
from etils import epath

from xmc_jax.frozen.text_encoder import fingerprint
from xmc_jax.inference.model import TrainedModel
from xmc_jax.pages import render
from xmc_jax.run.config import flatten
from xmc_jax.run.records import MetricRecord, latest_evaluations

# Licences of the data that a model was trained on.
DATA_LICENCES = {
    "shapes": "This package renders the training images; no rights of others apply to them.",
    "coco": "COCO's captions are licensed CC BY 4.0; its photographs come from Flickr, each under "
    "its own licence.",
    "ln_coco": "Localized Narratives are licensed CC BY 4.0; COCO's photographs come from Flickr, "
    "each under its own licence.",
    "ln_open_images": "Localized Narratives are licensed CC BY 4.0; Open Images lists its "
    "photographs as CC BY 2.0 and asks to verify each.",
    "emoji": "Fluent Emoji are licensed MIT by Microsoft, their names and keywords MIT by the "
    "authors of Emojibase, after data of Unicode's CLDR.",
    "folder": "The model was trained on a private data set: ask its trainer for the licence.",
}
_LIMITS_OF_SHAPES = (
    "The model knows only coloured shapes on plain backgrounds and the words that describe them; "
    "for other captions its images are meaningless. A caption may state a place or a background: "
    "those of the training data never state both."
)
_LIMITS_OF_EMOJI = (
    "The model knows only emoji, their names and keywords; small details, faces and flags come out "
    "wrong. It repeats the stereotypes of the emoji. Do not use it to depict real people."
)
_LIMITS_OF_PHOTOGRAPHS = (
    "Faces, hands, text and counts come out wrong, and the model repeats the gaps and stereotypes "
    "of its photographs and of the people who described them. Do not use it to depict real people "
    "or as evidence of anything."
)
# Captions that show how people may write to a model.
_EXAMPLES = {
    "shapes": (
        "a red circle",
        "a large blue square",
        "a small green star",
        "a yellow triangle on a black background",
    ),
    "emoji": (
        "a grinning face",
        "a red apple",
        "a cat face",
        "a green book",
        "a woman cook with dark skin",
        "a man firefighter with light skin",
    ),
}
_EXAMPLES_OF_PHOTOGRAPHS = ("a dog on the grass", "a red bus on a street", "a bowl of fruit")
_TASK = "text-to-image"
_LIMITS = {"shapes": _LIMITS_OF_SHAPES, "emoji": _LIMITS_OF_EMOJI}


def write_card(
    model: TrainedModel,
    *,
    name: str,
    address: str | None,
    records: Iterable[dict[str, Any]],
    dtype: str,
    standalone: bool,
    onnx: bool,
    web: bool,
) -> str:
    """Renders the card as Markdown. Facts that the config lacks are left out.

    Args:
      model: The model.
      name: Its name.
      address: Where it will be published, ``hf://USER/NAME``; None if nowhere.
      records: Records of ``metrics.jsonl``; the card shows the evaluations of the model's step.
      dtype: Storage type of the parameters.
      standalone: Whether the folder generates images without this package.
      onnx: Whether it holds files for ONNX Runtime.
      web: Whether it holds a page that draws in a browser. The card then says what a static Space
        needs to know.
    """
    fields = flatten(model.experiment.config.to_dict())
    data, data_text = fields.get("data.name"), ""
    if data in DATA_LICENCES:  # The card quotes the first paragraph of its README.
        readme = resources.files("xmc_jax.data.builders") / data / "README.md"
        data_text = readme.read_text("utf-8").strip().split("\n\n")[0]
    records = list(records)
    metrics = latest_evaluations(records, step=model.step)
    starts = (record["init_from"] for record in records if record.get("init_from"))
    return render.render(
        "model_card.md.jinja",
        metadata=_metadata(name, data, metrics, web=web),
        name=name,
        address=address or ".",
        fields=fields,
        step=model.step,
        trained_start=_without_folders(next(starts, "")),
        example=example_captions(data)[0],
        metrics=metrics,
        dtype=dtype,
        num_parameters=sum(x.size for x in jax.tree.leaves(model.ema["params"])),
        fingerprint=fingerprint(model.experiment.text_encoder),
        standalone=standalone,
        onnx=onnx,
        web=web,
        lowercase=model.experiment.text_encoder.lowercase,
        data_text=data_text,
        data_licence=DATA_LICENCES.get(data, ""),
        limits=limits_of(data),
    )


def limits_of(data: str | None) -> str:
    """What models of a data set cannot do, in one or two sentences."""
    return _LIMITS.get(data, _LIMITS_OF_PHOTOGRAPHS)


def example_captions(data: str | None) -> tuple[str, ...]:
    """Captions of the kind that models of a data set know."""
    return _EXAMPLES.get(data, _EXAMPLES_OF_PHOTOGRAPHS)


def _without_folders(model: str) -> str:
    """A model's address, or the name of its folder: the folders above are nobody's business."""
    return model if model.startswith("hf://") else epath.Path(model).name


def _metadata(name: str, data: str | None, metrics: Sequence[MetricRecord], *, web: bool) -> str:
    """The YAML at the beginning of the card, by which the Hugging Face Hub finds and shows it."""
    of_space = {"title": name, "sdk": "static"} if web else {}
    results = [
        huggingface_hub.EvalResult(
            task_type=_TASK,
            dataset_type=data,
            dataset_name=data,
            dataset_split=record.split,
            metric_type=record.metric,
            metric_value=record.value,
            metric_args={"protocol": record.protocol, "num_samples": record.num_samples},
        )
        for record in metrics
        if data and record.value is not None
    ]
    return huggingface_hub.ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="xmc_jax",
        pipeline_tag=_TASK,
        tags=[_TASK, "gan", "xmc-gan", "jax", "flax"],
        model_name=name if results else None,
        eval_results=results or None,
        **of_space,
    ).to_yaml()
