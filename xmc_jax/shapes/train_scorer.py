"""Trains the scorer of shapes on degraded renders, and measures it on others.

    python -m xmc_jax.shapes.train_scorer --out=scorer.npz

Pictures are renders of the training split, at 32 and 64 pixels, with faults such as generated
pictures have. The run is a function of the seed. The shipped weights came from this command, with
--out=xmc_jax/metrics/shapes_scorer.npz.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import UInt8

from xmc_jax import cli
from xmc_jax.console import Progress
from xmc_jax.errors import UserError
from xmc_jax.types import PyTree

Reader = Callable[[UInt8[np.ndarray, "n h w 3"]], list]  # Images to parsed scenes.

_RESOLUTIONS = (32, 64)  # Of batches in turn; larger pictures are easier, and cost more.
_BATCH_SIZE = 32
_LEARNING_RATE = 2e-3  # At its peak; it rises over a twentieth of the run and falls to zero.
TRAINING_STRENGTH = 1.0  # Of faults; see `data.degradations`.
MEASURED_STRENGTHS = (0.25, 0.5)  # Of the faults of the pictures that it is measured on.


def main() -> None:
    """Trains, writes the weights, reads them back, and prints how well they read."""
    out = Path(cli.required("out")).expanduser()
    if not out.absolute().parent.is_dir():
        raise UserError(f"no folder {out.absolute().parent} for --out")
    cli.set_up_jax()

    from xmc_jax.shapes import scorer as shapes_scorer

    values = flags.FLAGS
    params = train(values.num_steps, values.seed)
    command = (
        f"python -m xmc_jax.shapes.train_scorer --num_steps={values.num_steps} --seed={values.seed}"
    )
    shapes_scorer.save_scorer(out, params, names(), {"command": command})
    scorer = shapes_scorer.load_scorer(out)
    print(f"wrote {out}: {out.stat().st_size / 1e3:.0f} kB, sha256 {scorer.fingerprint}")
    for strength in MEASURED_STRENGTHS:
        print_accuracy(scorer.read, strength, values.num_measured)


def names():
    """The names of everything in a scene of the shapes data, for the scorer."""
    from xmc_jax.shapes import scenes as shapes
    from xmc_jax.shapes.scorer import Names

    return Names(
        tuple(shapes.SHAPES), tuple(shapes.COLOURS), tuple(shapes.SIZES), tuple(shapes.BACKGROUNDS)
    )


def train(num_steps: int, seed: int) -> PyTree:
    """Trains from random weights on degraded renders of the training split.

    Args:
      num_steps: Batches of 32 pictures.
      seed: Of weights, scenes and faults.

    Returns:
      The network's variables.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from xmc_jax.shapes.scorer import create_network

    network = create_network(names())
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, _LEARNING_RATE, num_steps // 20, num_steps, 0.0
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    step = _make_step(network, optimizer)
    blank = jnp.zeros((1, _RESOLUTIONS[0], _RESOLUTIONS[0], 3))
    params = network.init(jax.random.key(seed), blank)
    state = optimizer.init(params)
    progress = Progress(num_steps, name="train", unit="steps")
    for index in range(num_steps):
        pictures, labels = make_batch(seed, index)
        params, state, loss = step(params, state, pictures, labels)
        progress.tell(index + 1, note=f"loss {loss:.4f}")
    return params


def _make_step(network, optimizer) -> Callable:
    import jax
    import optax

    from xmc_jax import images
    from xmc_jax.shapes.scorer import scorer_loss

    def loss_of(params, pictures, labels):
        return scorer_loss(network.apply(params, images.from_uint8(pictures)), labels)

    @jax.jit
    def step(params, state, pictures, labels):
        loss, gradients = jax.value_and_grad(loss_of)(params, pictures, labels)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    return step


def make_batch(seed: int, index: int):
    """Degraded renders of training scenes and their labels: a function of seed and index."""
    from xmc_jax.shapes import scenes as shapes
    from xmc_jax.shapes.degradations import degrade

    rng = np.random.default_rng([seed, index])
    resolution = _RESOLUTIONS[index % len(_RESOLUTIONS)]
    scenes = [
        shapes.make_scene("train", int(i), narrative=bool(rng.integers(2)))
        for i in rng.integers(shapes.SPLITS["train"], size=_BATCH_SIZE)
    ]
    pictures = [
        degrade(shapes.render(scene, resolution), rng, TRAINING_STRENGTH) for scene in scenes
    ]
    return np.stack(pictures), labels_of(scenes)


def labels_of(scenes: Sequence):
    """The truth about scenes, as the scorer's network is to tell it."""
    from xmc_jax.shapes.scenes import GRID
    from xmc_jax.shapes.scorer import Labels

    known = names()
    cells = np.zeros((4, len(scenes), GRID**2), np.int64)
    for i, scene in enumerate(scenes):
        for item in scene.objects:
            cells[:, i, item.cell] = (
                1,
                known.shapes.index(item.shape),
                known.colours.index(item.colour),
                known.sizes.index(item.size),
            )
    background = np.array([known.backgrounds.index(scene.background) for scene in scenes])
    return Labels(cells[0] > 0, *cells[1:], background)


def print_accuracy(read: Reader, strength: float, num_examples: int) -> None:
    """How well a reader reads degraded renders that no training saw: a table of percentages."""
    from xmc_jax.shapes.accuracy import ATTRIBUTES, count_claims, summarise

    columns = [(split, side) for split in ("val", "test_comp") for side in (32, 64, 128)]
    progress = Progress(len(columns) * num_examples, name="measure", unit="pictures")
    measured = []
    for split, side in columns:
        pictures, forms = degraded_examples(split, side, strength, num_examples)
        measured.append(summarise(count_claims(read(pictures), forms)))
        progress.tell(len(measured) * num_examples)
    print(
        f"Accuracy in percent on {num_examples} held-out renders each, with faults of strength "
        f"{strength} (training: {TRAINING_STRENGTH})"
    )
    print(f"{'':<14}" + "".join(f"{f'{split} {side}':>14}" for split, side in columns))
    for name in ATTRIBUTES:
        print(f"{name:<14}" + "".join(f"{100 * m[name].value:>14.2f}" for m in measured))
    lowest = min(accuracy.value for m in measured for accuracy in m.values())
    print(f"lowest: {100 * lowest:.2f}")


def degraded_examples(
    split: str, resolution: int, strength: float, num_examples: int
) -> tuple[UInt8[np.ndarray, "n h w 3"], list[tuple]]:
    """The first renders of a split with faults, and the logical forms of all their captions."""
    from xmc_jax.shapes import captions
    from xmc_jax.shapes import scenes as shapes
    from xmc_jax.shapes.degradations import degrade

    pictures, forms = [], []
    for index in range(num_examples):
        example = captions.make_example(split, index)
        rng = shapes.random_generator(split, index, "faults")
        pictures.append(degrade(shapes.render(example.scene, resolution), rng, strength))
        forms.append(tuple(caption.form for caption in example.captions))
    return np.stack(pictures), forms


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "File to write the weights to, *.npz.")
    flags.DEFINE_integer("num_steps", 2400, "Batches of 32 pictures.", lower_bound=20)
    flags.DEFINE_integer(
        "num_measured", 500, "Held-out pictures of each split and size.", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Of weights, scenes and faults.", lower_bound=0)


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
