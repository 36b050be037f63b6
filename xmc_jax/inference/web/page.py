"""Builds the page that draws with an exported model, and the files beside it."""

import json
from collections.abc import Mapping
from importlib import resources

from etils import epath

from xmc_jax.inference import exported
from xmc_jax.inference.model import TrainedModel
from xmc_jax.inference.model_card import example_captions, limits_of
from xmc_jax.inference.web.runtime import MODULE, WASM
from xmc_jax.pages import render
from xmc_jax.run.folder import captions_path

_NUM_EXAMPLES = 6
# What the worker loads with progress, in this order.
_LOADED = (
    exported.VOCABULARY,
    f"{exported.PAGE_FILES}/{WASM}",
    exported.ONNX_GENERATOR,
    exported.ONNX_TEXT_ENCODER,
)


def build_page(
    model: TrainedModel, workdir: epath.PathLike, *, name: str, files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The page and what it needs besides the exported model, by path in the exported folder.

    Args:
      model: The model.
      workdir: Folder of its run; examples are the shortest captions of its previews.
      name: Name of the model.
      files: Contents of the exported files, and of ONNX Runtime's, by name.
    """
    static = {path.name: path.read_bytes() for path in _static_files()}
    static |= {name: files[name] for name in (MODULE, WASM)}
    found = {f"{exported.PAGE_FILES}/{name}": data for name, data in static.items()}
    experiment, data = model.experiment, model.experiment.config.data.name
    config = {
        "numTokens": experiment.tokenizer.num_tokens,
        "zDim": experiment.generator.z_dim,
        "lowercase": experiment.text_encoder.lowercase,
        "resolution": experiment.config.model.resolution,
        "hasMaps": experiment.config.model.modulation == "attentional",
        "wasm": f"{exported.PAGE_FILES}/{WASM}",
        "files": {name: len((files | found)[name]) for name in _LOADED},
    }
    page = render.render(
        "draw.html.jinja",
        name=name,
        config=config,
        examples=_examples(workdir, data),
        limits=limits_of(data),
    )
    # The page first: where it is, `exported.write` takes the other folder for its own.
    return {exported.PAGE: page.encode(), exported.NO_JEKYLL: b""} | found


def _static_files() -> list[epath.Path]:
    folder = epath.Path(resources.files("xmc_jax.inference.web") / "static")
    return sorted(path for path in folder.iterdir() if path.is_file())


def _examples(workdir: epath.PathLike, data: str) -> list[str]:
    """Captions to click."""
    try:
        captions = json.loads(captions_path(workdir).read_text())["captions"]
    except (FileNotFoundError, ValueError):
        return list(example_captions(data))
    return sorted(dict.fromkeys(captions), key=len)[:_NUM_EXAMPLES]
