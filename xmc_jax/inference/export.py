"""From a run's checkpoint to the folder of an exported model."""

from pathlib import Path

from etils import epath

from xmc_jax.data import wordpiece
from xmc_jax.frozen.text_encoder import fingerprint
from xmc_jax.inference import exported
from xmc_jax.inference.model import load
from xmc_jax.inference.model_card import write_card
from xmc_jax.inference.program import export_program, name_text_params
from xmc_jax.run.folder import config_path, text_projection_path
from xmc_jax.run.records import read_metrics


def export(
    workdir: epath.PathLike,
    out: epath.PathLike,
    *,
    step: int | None = None,
    dtype: str = "float32",
    with_program: bool = True,
) -> None:
    """Exports a checkpoint of a run.

    Args:
      workdir: Folder of the run.
      out: Folder of the exported model; an older model in it is replaced.
      step: Which checkpoint; None for the newest.
      dtype: Storage type of parameters: ``"float32"``, or ``"float16"`` for half the size. Images
        are computed in float32 either way.
      with_program: Whether the folder also generates images without this package. It then contains
        the text encoder's weights.

    Raises:
      UserError: there is no such run or checkpoint, or the folder cannot be written.
    """
    out = exported.open_folder(out)
    model = load(workdir, step=step)
    config, encoder = model.experiment.config, model.experiment.text_encoder
    weights = exported.to_storage(model.ema, dtype)
    files = {
        "config.json": config_path(workdir).read_bytes(),
        exported.WEIGHTS: exported.to_safetensors(weights),
        exported.VOCABULARY: Path(encoder.vocabulary_file).read_bytes(),
    }
    if config.text.projection:
        files[exported.PROJECTION] = text_projection_path(workdir).read_bytes()
    if with_program:
        text_params = name_text_params(model.experiment.frozen.text)
        files[exported.TEXT_WEIGHTS] = exported.to_safetensors(text_params)
        files[exported.PROGRAM] = export_program(model.experiment, weights)
        # The script imports the tokenizer from its own folder, so it cannot be imported here.
        files[exported.SCRIPT] = Path(__file__).with_name("standalone.py").read_bytes()
        files[exported.TOKENIZER] = Path(wordpiece.__file__).read_bytes()
    card = write_card(
        model, name=out.name, records=read_metrics(workdir), dtype=dtype, with_program=with_program
    )
    manifest = {
        "step": model.step,
        "dtype": dtype,
        "num_tokens": config.text.num_tokens,
        "z_dim": config.model.z_dim,
        "text_encoder": {
            "name": config.text.encoder,
            "fingerprint": fingerprint(encoder),
            "lowercase": encoder.lowercase,
        },
    }
    exported.write(out, manifest, {**files, exported.CARD: card.encode()})
    size = sum(map(len, files.values())) / 1e6
    print(f"exported step {model.step} of {workdir}: {size:.1f} MB in {out}; see its README.md")
