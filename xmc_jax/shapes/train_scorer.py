"""Trains the scorer of shapes on degraded renders, and measures it on held-out ones.

    python -m xmc_jax.shapes.train_scorer --out=scorer.npz

The training images are renders of the training split, at 32 and 64 pixels, with degradations that
imitate the faults of generated images. The result depends on the layout and the seed only. This
command, with --out=xmc_jax/shapes/scorer.npz, made the packaged weights; with --layout=one and
--out=xmc_jax/shapes/scorer_one.npz it made those of scenes with one object, likewise two.
"""

from pathlib import Path

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError
from xmc_jax.shapes.scenes import LAYOUTS


def main() -> None:
    """Trains, writes the weights, reads them back, and prints their accuracy."""
    out = Path(cli.required("out"))
    if not out.absolute().parent.is_dir():
        raise UserError(f"no folder {out.absolute().parent} for --out")
    cli.set_up_jax()
    # They import JAX and Flax: --help and a wrong flag need not wait for these.
    from xmc_jax.shapes import scorer, scorer_training

    layout, num_steps, seed = (flags.FLAGS[name].value for name in ("layout", "num_steps", "seed"))
    params = scorer_training.train(layout, num_steps, seed)
    options = f"--layout={layout} --num_steps={num_steps} --seed={seed}"
    command = f"python -m xmc_jax.shapes.train_scorer {options}"
    scorer.save_scorer(out, params, {"command": command})
    trained = scorer.load_scorer(out)
    print(f"wrote {out}: {out.stat().st_size / 1e3:.0f} kB, sha256 {trained.fingerprint}")
    for strength in scorer_training.MEASURED_STRENGTHS:
        scorer_training.print_accuracy(trained.read, layout, strength, flags.FLAGS.num_measured)


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "File to write the weights to, *.npz.")
    flags.DEFINE_enum(
        "layout", "full", list(LAYOUTS), "Layout of the scenes; full and narrative share weights."
    )
    flags.DEFINE_integer("num_steps", 2400, "Batches of 32 images.", lower_bound=20)
    flags.DEFINE_integer(
        "num_measured", 500, "Held-out images of each split and resolution.", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Seed of weights, scenes and degradations.", lower_bound=0)


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
