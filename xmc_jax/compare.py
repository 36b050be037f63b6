"""Compares runs: their metrics with intervals, images of the same captions, and their configs.

    python -m xmc_jax.compare runs/all runs/s_w --out=comparison
    python -m xmc_jax.compare runs/all runs/s_w --captions_file=captions.txt --out=comparison
    python -m xmc_jax.compare runs/all hf://USER/NAME --caption="a blue star" --out=comparison

Writes to --out: compare.html, a single file that needs no network, and compare.md with its images
in pictures/. Without captions, those of the first run's sample grids are used.
"""

from absl import flags
from etils import epath

from xmc_jax import cli, files
from xmc_jax.errors import UserError
from xmc_jax.inference import hub
from xmc_jax.run.config import read_config


def main(paths: list[str]) -> None:
    """Reads the flags, compares the runs and prints the paths of the pages."""
    if len(paths) < 2:
        raise UserError("name the folders of two runs or more, e.g. `compare runs/one runs/other`")
    out, options = epath.Path(cli.required("out")), flags.FLAGS
    captions = list(options.caption)
    if options.captions_file:
        captions += cli.read_captions_file("captions_file")
    folders = [hub.local_folder(path) for path in paths]
    for folder in folders:
        read_config(folder)  # Finds a wrong folder before JAX and Matplotlib are imported.

    from xmc_jax.pages import compare as pages  # --help must not wait for it.

    runs = pages.read_runs(paths, folders)
    files.ensure_writable(out)
    generated = None
    if options.pictures and (captions := captions or pages.grid_captions(runs[0])):
        cli.set_up_jax()
        from xmc_jax.inference.compare import generate_for_runs  # Only images need models.

        generated = generate_for_runs(runs, captions, seed=options.seed)
    written = pages.write_comparison(runs, out, generated)
    print(f"wrote {' and '.join(map(str, written))}")


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "Folder for compare.html, compare.md and pictures/.")
    flags.DEFINE_multi_string("caption", [], "A caption to generate; may be given several times.")
    flags.DEFINE_string("captions_file", None, "Text file with one caption a line.")
    cli.define_seed_flag("Seed of the noise, the same for every run.")
    flags.DEFINE_bool(
        "pictures", True, "Whether to generate images; without, checkpoints are not needed."
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
