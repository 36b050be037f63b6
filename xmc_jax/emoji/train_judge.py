"""Trains the judge of emoji on real images, and measures it on held-out ones.

    python -m xmc_jax.prepare --dataset=emoji
    python -m xmc_jax.emoji.train_judge --out=judge.npz

Prints, for train, val and test_comp, how often the judge finds the caption of a real image among
32. The result depends on the data and the seed only. This command, with
--out=xmc_jax/emoji/judge.npz, made the packaged weights. To compare settings, --hold_out trains
without a tenth of the concepts of train and measures on these alone, so that val stays unseen.
"""

from pathlib import Path

import numpy as np
from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError


def main() -> None:
    """Trains, writes the weights, reads them back, and prints their accuracy."""
    values = flags.FLAGS
    out = Path(cli.required("out"))
    if not out.absolute().parent.is_dir():
        raise UserError(f"no folder {out.absolute().parent} for --out")
    cli.set_up_jax()
    # They import JAX and Keras: --help and a wrong flag need not wait for these.
    from xmc_jax.emoji import judge, judge_training

    encoder = judge.load_sentence_encoder()
    examples = judge_training.read_examples("train", values.data_dir, encoder)
    held_out = judge_training.hold_out(examples) & values.hold_out
    seen, unseen = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    params = judge_training.train(examples, seen, values.num_steps, values.seed)
    options = (
        f"--num_steps={values.num_steps} --seed={values.seed}" + " --hold_out" * values.hold_out
    )
    command = f"python -m xmc_jax.emoji.train_judge {options}"
    judge.save_judge(out, params, encoder, command)
    trained = judge.load_judge(out)
    print(f"wrote {out}: {out.stat().st_size / 1e3:.0f} kB, sha256 {trained.fingerprint}")
    measured = {"train": (examples, seen)}
    if values.hold_out:
        measured["unseen concepts of train"] = examples, unseen
    else:
        for split in ("val", "test_comp"):
            others = judge_training.read_examples(split, values.data_dir, encoder)
            measured[split] = others, np.arange(len(others.ids))
    candidates = 1 + judge_training.NUM_OTHERS
    print(f"Captions of real images that are found among {candidates}, in percent")
    for name, (images, indices) in measured.items():
        accuracy = judge_training.measure(trained.params, images, indices)
        print(f"{name:<26}{100 * accuracy:>6.1f}  of {len(indices)} images")
    print(f"{'chance':<26}{100 / candidates:>6.1f}")


def _define_flags() -> None:
    cli.define_data_dir_flag()
    flags.DEFINE_string("out", None, "File to write the weights to, *.npz.")
    flags.DEFINE_integer("num_steps", 1200, "Batches of 128 images.", lower_bound=20)
    flags.DEFINE_integer("seed", 0, "Seed of weights, batches and augmentations.", lower_bound=0)
    flags.DEFINE_bool(
        "hold_out", False, "Train without a tenth of the concepts of train, and measure on these."
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
