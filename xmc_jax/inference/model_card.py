"""The model card of an exported model: what it is, learned from, measures, is for and is not."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

Record = Mapping[str, Any]

# What whoever passes the model on should know of the data it has learned from.
DATA_LICENCES = {
    "shapes": "The pictures are drawn by this package and carry no rights of others.",
    "coco": "COCO's captions are licensed CC BY 4.0; its photographs come from Flickr, each under "
    "a licence of its own.",
    "ln_coco": "Localized Narratives are licensed CC BY 4.0; COCO's photographs come from Flickr, "
    "each under a licence of its own.",
    "ln_open_images": "Localized Narratives are licensed CC BY 4.0; Open Images lists its "
    "photographs as CC BY 2.0 and asks to verify each.",
    "folder": "A data set of the trainer's own: ask who trained it for its licence.",
}
_LIMITS = {
    "shapes": "It knows coloured shapes on plain backgrounds and the words that describe them; of "
    "anything else it draws nonsense.",
}
_LIMITS_OF_PHOTOGRAPHS = (
    "Faces, hands, text and counts come out wrong, and it repeats the gaps and stereotypes of its "
    "photographs and of the people who described them. Do not use it to depict real people, nor "
    "as evidence of anything."
)


def write_card(
    *,
    name: str,
    config: Mapping[str, Any],
    step: int,
    records: Sequence[Record],
    dtype: str,
    num_parameters: int,
    text_encoder_fingerprint: str,
    with_program: bool,
) -> str:
    """The card, in Markdown.

    Args:
      name: Of the model.
      config: Of the run, as nested dictionaries.
      step: The training step of the weights.
      records: Of ``metrics.jsonl``; evaluations of this step are shown.
      dtype: What parameters are stored in.
      num_parameters: Of the generator.
      text_encoder_fingerprint: See `text_encoder.fingerprint`.
      with_program: Whether the program and the text encoder's weights are in the folder.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xmc_jax.pages", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = config["data"]["name"]
    return environment.get_template("model_card.md.jinja").render(
        name=name,
        config=config,
        step=step,
        metrics=evaluations_of(records, step),
        dtype=dtype,
        num_parameters=num_parameters,
        fingerprint=text_encoder_fingerprint,
        with_program=with_program,
        data_text=_about_data(data),
        data_licence=DATA_LICENCES[data],
        limits=_LIMITS.get(data, _LIMITS_OF_PHOTOGRAPHS),
    )


def evaluations_of(records: Sequence[Record], step: int) -> list[Record]:
    """The last record of every metric and protocol at a step, with None where a field is absent."""
    latest = {
        (record["metric"], record["protocol"]): {"floor": None, "ceiling": None} | record
        for record in records
        if record["kind"] == "eval" and record["step"] == step
    }
    return [latest[key] for key in sorted(latest)]


def _about_data(name: str) -> str:
    """The first paragraph of what the builder's own description says."""
    text = (resources.files("xmc_jax.data.builders") / name / "README.md").read_text("utf-8")
    return text.strip().split("\n\n")[0]
