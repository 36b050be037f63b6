"""Training of the scorer on degraded renders, and its accuracy on held-out ones."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import UInt8

from xmc_jax.console import Progress
from xmc_jax.images import from_uint8
from xmc_jax.shapes.accuracy import Reader, count_claims, summarise
from xmc_jax.shapes.captions import Form, make_example
from xmc_jax.shapes.degradations import degrade
from xmc_jax.shapes.scenes import GRID, LAYOUTS, SPLITS, Scene, make_scene, random_generator, render
from xmc_jax.shapes.scorer import NAMES, PACKAGED, Labels, ShapesScorer, scorer_loss
from xmc_jax.types import PyTree

# Strengths of degradations, see `degradations.degrade`.
TRAINING_STRENGTH = 1.0
MEASURED_STRENGTHS = (0.25, 0.5)  # Of the images that accuracy is measured on.

_RESOLUTIONS = (32, 64)  # Batches alternate between them; larger images are easier and cost more.
_BATCH_SIZE = 32


def train(layout: str, num_steps: int, seed: int) -> PyTree:
    """Trains from random weights on degraded renders of the training split.

    Scenes are of all layouts that share a weight file with `layout`. Weights, scenes and
    degradations depend on `seed`. Returns the network's variables.
    """
    # Warmup over a twentieth of the training, then cosine decay to zero.
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, num_steps // 20, num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss_of(params, images, labels):
        return scorer_loss(ShapesScorer().apply(params, from_uint8(images)), labels)

    @jax.jit
    def step(params, state, images, labels):
        loss, gradients = jax.value_and_grad(loss_of)(params, images, labels)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    blank = jnp.zeros((1, _RESOLUTIONS[0], _RESOLUTIONS[0], 3))
    params = ShapesScorer().init(jax.random.key(seed), blank)
    state = optimizer.init(params)
    progress = Progress(num_steps, name="train", unit="steps")
    for index in range(num_steps):
        params, state, loss = step(params, state, *make_batch(layout, seed, index))
        progress.tell(index + 1, note=f"loss {loss:.4f}")
    return params


def make_batch(layout: str, seed: int, index: int) -> tuple[UInt8[np.ndarray, "n h w 3"], Labels]:
    """Degraded renders of training scenes and their labels; a function of the arguments."""
    rng = np.random.default_rng([seed, index])
    resolution = _RESOLUTIONS[index % len(_RESOLUTIONS)]
    layouts = [other for other in LAYOUTS if PACKAGED[other] == PACKAGED[layout]]
    scenes = [
        make_scene("train", int(i), layouts[rng.integers(len(layouts))])
        for i in rng.integers(SPLITS["train"], size=_BATCH_SIZE)
    ]
    # Layouts that share weights render alike.
    renders = (render(scene, resolution, layout) for scene in scenes)
    images = [degrade(image, rng, TRAINING_STRENGTH) for image in renders]
    return np.stack(images), labels_of(scenes)


def labels_of(scenes: Sequence[Scene]) -> Labels:
    """Targets of the network for scenes."""
    present = np.zeros((len(scenes), GRID**2), bool)
    shape, colour, size = np.zeros((3, *present.shape), np.int64)
    for i, scene in enumerate(scenes):
        for item in scene.objects:
            present[i, item.cell] = True
            shape[i, item.cell] = NAMES["shapes"].index(item.shape)
            colour[i, item.cell] = NAMES["colours"].index(item.colour)
            size[i, item.cell] = NAMES["sizes"].index(item.size)
    background = np.array([NAMES["backgrounds"].index(scene.background) for scene in scenes])
    return Labels(present, shape, colour, size, background)


def print_accuracy(read: Reader, layout: str, strength: float, num_examples: int) -> None:
    """Prints a table of a reader's accuracy, in percent, on degraded renders of held-out scenes."""
    columns = [(split, side) for split in ("val", "test_comp") for side in (32, 64, 128)]
    progress = Progress(len(columns) * num_examples, name="measure", unit="images")
    measured = []
    for split, side in columns:
        images, forms = degraded_examples(split, side, strength, num_examples, layout)
        measured.append(summarise(count_claims(read(images), forms)))
        progress.tell(len(measured) * num_examples)
    print(
        f"Accuracy in percent on {num_examples} held-out renders each, with degradations of "
        f"strength {strength} (training: {TRAINING_STRENGTH})"
    )
    print(f"{'':<14}" + "".join(f"{f'{split} {side}':>14}" for split, side in columns))
    for name in measured[0]:
        print(f"{name:<14}" + "".join(f"{100 * m[name].value:>14.2f}" for m in measured))
    lowest = min(accuracy.value for m in measured for accuracy in m.values())
    print(f"lowest: {100 * lowest:.2f}")


def degraded_examples(
    split: str, resolution: int, strength: float, num_examples: int, layout: str = "full"
) -> tuple[UInt8[np.ndarray, "n h w 3"], list[tuple[Form, ...]]]:
    """Degraded renders of a split's first scenes, and the logical forms of all their captions."""
    images, forms = [], []
    for index in range(num_examples):
        example = make_example(split, index, layout)
        rng = random_generator(split, index, "faults")
        images.append(degrade(render(example.scene, resolution, layout), rng, strength))
        forms.append(tuple(caption.form for caption in example.captions))
    return np.stack(images), forms
