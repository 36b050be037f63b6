"""Exports a trained model: a folder with everything that generating images needs.

    python -m xmc_jax.export --workdir=runs/one_shape_32 --out=exports/one_shape_32
    python -m xmc_jax.export --workdir=runs/one_shape_32 --out=small --dtype=float16 --nostandalone
    python -m xmc_jax.export --workdir=runs/one_shape_32 --out=web --onnx
    python -m xmc_jax.export --workdir=runs/one_shape_32 --out=page --web
    python -m xmc_jax.export --workdir=runs/one_shape_32 --out=public --push=USER/NAME

Writes to --out: weights.safetensors, config.json, vocab.txt, model.json (fingerprints), README.md
(the model card), program.stablehlo and, for use without this package, text_encoder.safetensors and
generate.py. Generate images with it by `sample --workdir=OUT`, xmc_jax.load(OUT) or generate.py.
With --onnx also text_encoder.onnx and generator.onnx, for ONNX Runtime; with --web these and
index.html, a page that draws in the browser.
--push publishes the folder on the Hugging Face Hub: xmc_jax.load("hf://USER/NAME") reads it there.
"""

from absl import flags

from xmc_jax import cli, files
from xmc_jax.errors import UserError
from xmc_jax.inference import exported, hub
from xmc_jax.run.config import read_config


def main() -> None:
    """Reads the flags and exports."""
    workdir, out = cli.required("workdir"), cli.required("out")
    read_config(workdir)
    options = flags.FLAGS
    if options.onnxruntime_web and not options.web:
        raise UserError("--onnxruntime_web is for --web")
    exported.open_folder(out)
    if options.push is not None:
        hub.open_repository(options.push)
    cli.set_up_jax()

    from xmc_jax.inference.export import export  # --help must not wait for JAX.

    export(
        workdir,
        out,
        step=options.step,
        dtype=options.dtype,
        standalone=options.standalone,
        onnx=options.onnx,
        web=options.web,
        onnxruntime_web=options.onnxruntime_web,
        address=f"{files.HUB}{options.push}" if options.push else None,
    )
    if options.push:
        page = hub.push(out, options.push)
        print(f'published at {page}: xmc_jax.load("{files.HUB}{options.push}")')


def _define_flags() -> None:
    cli.define_workdir_flag("Folder of a run, or of an exported model to export in other forms.")
    flags.DEFINE_string("out", None, "Folder of the exported model; created if missing.")
    flags.DEFINE_integer("step", None, "Checkpoint to export; the newest by default.")
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "float16"], "Storage type of parameters; float16 is half."
    )
    flags.DEFINE_bool(
        "standalone",
        True,
        "Also write what generates images without this package, including the text encoder.",
    )
    flags.DEFINE_bool(
        "onnx", False, "Also write text_encoder.onnx and generator.onnx, for ONNX Runtime."
    )
    flags.DEFINE_bool("web", False, "Also write a page that draws in the browser; implies --onnx.")
    flags.DEFINE_string(
        "onnxruntime_web", None, "For --web: the archive of npm pack; by default downloaded once."
    )
    flags.DEFINE_string(
        "push",
        None,
        "USER/NAME: also publish the folder there, on the Hugging Face Hub. The repository is "
        "created if it is missing, as a public one; an older model in it is replaced.",
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
