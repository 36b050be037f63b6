"""Generates images of your own captions with a trained model.

    python -m xmc_jax.sample --workdir=runs/one_shape_32 --caption="a red circle" --out=pictures
    python -m xmc_jax.sample --workdir=runs/one_shape_32 --captions_file=captions.txt --out=pictures
    python -m xmc_jax.sample --workdir=hf://USER/NAME --caption="a blue star"
    python -m xmc_jax.sample --demo --caption="a blue star"

The folder may be that of a run or of an exported model, which may be on the Hugging Face Hub.
Writes to --out: one PNG for each image, and grid.png, a row of images under each caption.
"""

from absl import flags
from etils import epath

from xmc_jax import cli, demo, files
from xmc_jax.errors import UserError
from xmc_jax.inference import exported, hub


def main() -> None:
    """Reads the flags and generates the images."""
    captions, options = _read_captions(), flags.FLAGS
    out = epath.Path(cli.required("out"))
    if options.demo and options.workdir:
        raise UserError("--demo and --workdir name two models; give one of them")
    workdir = demo.demo_folder(options.demo) if options.demo else cli.required("workdir")
    workdir = hub.local_folder(workdir)
    exported.find_model(workdir)  # Refuses a wrong folder before JAX is imported.
    files.ensure_writable(out)
    cli.set_up_jax()

    from xmc_jax.inference.sample import sample  # --help must not wait for JAX.

    sample(
        workdir, captions, out, num_images=options.num_images, seed=options.seed, step=options.step
    )


def _read_captions() -> list[str]:
    captions = list(flags.FLAGS.caption)
    if flags.FLAGS.captions_file:
        captions += cli.read_captions_file("captions_file")
    if not captions:
        raise UserError('no caption: give --caption="…" or --captions_file=…')
    if not all(caption.strip() for caption in captions):
        raise UserError("a caption is empty; write what the image should show")
    return captions


class _DemoParser(flags.ArgumentParser):
    """``--demo`` alone means the default one, and ``--nodemo`` none."""

    def parse(self, argument: str | bool) -> str:
        return {"true": demo.DEFAULT, "false": ""}.get(str(argument).lower(), str(argument))


def _define_demo_flag() -> None:
    names = ", ".join(demo.COMMANDS)
    text = f"Use a model that comes with the package: --demo, or --demo=NAME with one of {names}."
    flags.DEFINE_bool("demo", False, text)
    flags.FLAGS["demo"].parser = _DemoParser()


def _define_flags() -> None:
    cli.define_workdir_flag("Folder of a run or of an exported model, or hf://USER/NAME.")
    flags.DEFINE_multi_string("caption", [], "A caption; may be given several times.")
    flags.DEFINE_string("captions_file", None, "Text file with one caption a line.")
    _define_demo_flag()
    flags.DEFINE_string("out", "pictures", "Folder for the images; created if missing.")
    flags.DEFINE_integer("num_images", 4, "Images of each caption.", lower_bound=1)
    cli.define_seed_flag("Seed of the noise: equal seeds give equal images.")
    flags.DEFINE_integer("step", None, "Checkpoint to use; the newest by default.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
