"""Accuracy of both readers of shapes against the strength of degradations.

    python -m benchmarks.shapes_readers [--num_examples=500] [--out=docs/shapes_readers.png]

Renders of the validation split and of `test_comp`, whose held-out shape-colour pairs are in no
training scene, with the degradations of `xmc_jax.shapes.degradations`. The trained reader was
trained on other renders, with strength 1.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Before anything imports Keras.

from absl import app, flags

from benchmarks import measure
from xmc_jax.evaluation.families.shapes import METRICS, make_reader
from xmc_jax.shapes.accuracy import ATTRIBUTES, count_claims, summarise
from xmc_jax.shapes.scorer_training import degraded_examples

NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 500, "Images of each kind.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "File for a plot of the curves, *.png or *.svg.")
RESOLUTIONS = (32, 64)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
PLOTTED = ("object", "all_correct")


def read_curves(split):
    """``{(resolution, reader): accuracies at each strength}``."""
    curves = {}
    for resolution in RESOLUTIONS:
        readers = {name: make_reader(name, resolution) for name in METRICS}
        for strength in STRENGTHS:
            images, forms = degraded_examples(split, resolution, strength, NUM_EXAMPLES.value)
            for name, reader in readers.items():
                accuracy = summarise(count_claims(reader.read(images), forms))
                curves.setdefault((resolution, name), []).append(accuracy)
    return curves


def plot(curves, path):
    """Plots both readers, one panel for each resolution."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(RESOLUTIONS), figsize=(9, 3.5), sharey=True)
    for axis, resolution in zip(axes, RESOLUTIONS, strict=True):
        for colour, name in zip(("tab:blue", "tab:orange"), METRICS, strict=True):
            for style, attribute in zip(("-", "--"), PLOTTED, strict=True):
                measured = [accuracy[attribute] for accuracy in curves[resolution, name]]
                axis.plot(
                    STRENGTHS, [a.value for a in measured], style, color=colour,
                    label=f"{name.removeprefix('shapes_accuracy').strip('_') or 'analytic'}, "
                    f"{attribute}",
                )  # fmt: skip
                axis.fill_between(
                    STRENGTHS, [a.low for a in measured], [a.high for a in measured],
                    color=colour, alpha=0.15, linewidth=0,
                )  # fmt: skip
        axis.set(title=f"{resolution} px", xlabel="strength of degradations", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy")
    axes[0].legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    print(f"{NUM_EXAMPLES.value} images of each split, resolution and strength; percent")
    for split in ("val", "test_comp"):
        curves = read_curves(split)
        rows = [
            (f"{name}, {resolution} px, {strength:g}", *(
                100 * accuracy[attribute].value for attribute in ATTRIBUTES
            ))
            for (resolution, name), accuracies in curves.items()
            for strength, accuracy in zip(STRENGTHS, accuracies, strict=True)
        ]  # fmt: skip
        measure.print_table((f"{split}: reader, images, strength", *ATTRIBUTES), rows)
        if OUT.value and split == "val":
            plot(curves, OUT.value)


if __name__ == "__main__":
    app.run(main)
