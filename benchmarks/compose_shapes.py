"""Do compositional scores and `shapes_accuracy` agree on images of shapes?

    python -m benchmarks.compose_shapes [--num_examples=1000] [--strength=1.0]

Images that the packaged demo generates for captions of the validation split, and degraded renders
of scenes with one to four objects, each with its own caption and with that of another image. For
every caption the table compares the decision of `compose/*`, from objects that the trained reader
finds, with that of each reader's `shapes_accuracy`.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Before anything imports Keras.

from absl import app, flags

import xmc_jax
from benchmarks import measure
from xmc_jax.evaluation.families.shapes import METRICS, make_reader
from xmc_jax.metrics import compose
from xmc_jax.shapes.accuracy import ATTRIBUTES, count_claims, shuffle_captions
from xmc_jax.shapes.captions import make_example
from xmc_jax.shapes.compose import form_claims, scene_detections
from xmc_jax.shapes.scorer_training import degraded_examples

NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 1000, "Images of each kind.", lower_bound=2)
STRENGTH = flags.DEFINE_float("strength", 1.0, "Of the degradations of renders.", lower_bound=0.0)
RESOLUTION = 32
# Each part of the score, beside the parts of `shapes_accuracy` that come closest to it.
PAIRS = (("presence", "shape"), ("count", "count"), ("colour", "colour"), ("colour", "object"))
PAIRS += (("relation", "relation"), ("all", "all_correct"))


def generate(count):
    """Images that the demo generates, and the logical forms of their captions."""
    captions = [make_example("val", i, "one").captions[i % 5] for i in range(count)]
    images = xmc_jax.load_demo("shapes").generate([caption.text for caption in captions], seed=0)
    return images, [(caption.form,) for caption in captions]


def degrade(count):
    """Degraded renders and the logical form of one caption of each."""
    images, forms = degraded_examples("val", RESOLUTION, STRENGTH.value, count)
    return images, [(each[i % 5],) for i, each in enumerate(forms)]


def percent(decisions):
    """Share of decisions that are true; a dash without any."""
    return 100 * float(decisions.mean()) if len(decisions) else "-"


def compare(images, forms, layout):
    """Prints how often the decisions agree, over captions of their own and of other images."""
    readers = {name: make_reader(name, RESOLUTION, layout) for name in METRICS}
    scenes = {name: reader.read(images) for name, reader in readers.items()}
    found = [scene_detections(scene, layout) for scene in scenes["shapes_accuracy_trained"]]
    others = [forms[i] for i in shuffle_captions(len(forms), seed=0)]
    chosen = [*forms, *others]
    table = compose.tabulate([form_claims(each) for each in chosen], [*found, *found])
    counts = {name: count_claims([*scenes[name]] * 2, chosen) for name in METRICS}
    rows = []
    for part, attribute in PAIRS:
        claimed, holds = table[:, compose.PARTS.index(part)].T
        cells = []
        for name in METRICS:
            hits, claims = counts[name][:, ATTRIBUTES.index(attribute)].T
            cells.append(percent((holds == (hits == claims))[claimed & (claims > 0)]))
        rows.append((part, attribute, int(claimed.sum()), percent(holds[claimed]), *cells))
    header = ("compose", "shapes_accuracy", "captions", "hold, %")
    measure.print_table((*header, "agree, analytic, %", "agree, trained, %"), rows)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    count = NUM_EXAMPLES.value
    print(f"{count} images that the demo generates, each with its own caption and with another one")
    compare(*generate(count), "one")
    print(f"{count} renders degraded with strength {STRENGTH.value:g}, likewise")
    compare(*degrade(count), "full")


if __name__ == "__main__":
    app.run(main)
