"""Exports a trained model: a folder with all that drawing takes, to keep, to send, to publish.

    python -m xmc_jax.export --workdir=runs/shapes_32 --out=exports/shapes_32
    python -m xmc_jax.export --workdir=runs/shapes_32 --out=small --dtype=float16 --noprogram

Writes to --out: weights.safetensors, config.json, vocab.txt, model.json (fingerprints), README.md
(the model card) and, for drawing without this package, program.stablehlo, text_encoder.safetensors
and generate.py. Draw with it by `sample --workdir=OUT`, xmc_jax.load(OUT) or generate.py.
"""

import pathlib

from absl import flags

from xmc_jax import cli


def main() -> None:
    """Reads the flags and exports."""
    workdir, out = cli.required("workdir"), cli.required("out")
    options = flags.FLAGS
    cli.set_up_jax()
    export(workdir, out, step=options.step, dtype=options.dtype, with_program=options.program)


def export(
    workdir: str,
    out: str,
    *,
    step: int | None = None,
    dtype: str = "float32",
    with_program: bool = True,
) -> None:
    """Exports a checkpoint of a run.

    Args:
      workdir: Folder of the run.
      out: Folder of the exported model; an older one in it is replaced.
      step: Which checkpoint; the newest if None.
      dtype: What parameters are stored in: ``"float32"``, or ``"float16"`` for half the size.
        Either is computed with in float32.
      with_program: Whether the folder also draws without this package. The text encoder's weights
        are then in it.

    Raises:
      UserError: there is no such run or checkpoint, or the folder cannot be written.
    """
    # What can be found wrong at once is, before anything slow begins.
    from xmc_jax.run.config import read_config
    from xmc_jax.run.folder import config_path
    from xmc_jax.run.records import read_metrics

    config = read_config(workdir)

    import jax

    from xmc_jax.frozen.text_encoder import fingerprint
    from xmc_jax.inference import exported, standalone
    from xmc_jax.inference import model as trained
    from xmc_jax.inference.model_card import write_card
    from xmc_jax.inference.program import export_program, name_text_params

    out = exported.open_folder(out)
    model = trained.load(workdir, step=step)
    encoder = model.experiment.text_encoder
    weights = exported.to_storage(model.ema, dtype)
    files = {
        "config.json": config_path(workdir).read_bytes(),
        exported.WEIGHTS: exported.to_safetensors(weights),
        exported.VOCABULARY: pathlib.Path(encoder.vocabulary_file).read_bytes(),
    }
    if with_program:
        text_params = name_text_params(model.experiment.frozen.text)
        files[exported.TEXT_WEIGHTS] = exported.to_safetensors(text_params)
        files[exported.PROGRAM] = export_program(model.experiment, weights)
        files[exported.SCRIPT] = pathlib.Path(standalone.__file__).read_bytes()
    text = {"fingerprint": fingerprint(encoder), "lowercase": encoder.lowercase}
    card = write_card(
        name=out.name,
        config=config.to_dict(),
        step=model.step,
        records=read_metrics(workdir),
        dtype=dtype,
        num_parameters=sum(x.size for x in jax.tree.leaves(model.ema["params"])),
        text_encoder_fingerprint=text["fingerprint"],
        with_program=with_program,
    )
    manifest = {
        "step": model.step,
        "dtype": dtype,
        "num_tokens": config.text.num_tokens,
        "z_dim": config.model.z_dim,
        "text_encoder": {"name": config.text.encoder, **text},
    }
    exported.write(out, manifest, {**files, exported.CARD: card.encode()})
    size = sum(map(len, files.values())) / 1e6
    print(f"exported step {model.step} of {workdir}: {size:.1f} MB in {out}; see its README.md")


def _define_flags() -> None:
    cli.define_workdir_flag()
    flags.DEFINE_string("out", None, "Folder of the exported model (made if it is not there).")
    flags.DEFINE_integer("step", None, "Checkpoint to export; the newest if not given.")
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "float16"], "What parameters are stored in; float16 halves."
    )
    flags.DEFINE_bool(
        "program",
        True,
        "Also write what draws without this package, the text encoder's weights among it.",
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
