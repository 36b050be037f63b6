"""Throughput of the FID's Inception network, against pytorch-fid in the same process.

    pip install torch torchvision pytorch-fid         # In a separate environment
    python -m benchmarks.inception [--batch_size=16] [--repeats=3]

Weights are random: speed does not depend on them. Without torch, only ours runs. Prints images per
second of wall time (both sides take turns) and of processor time, which a busy machine affects
less, and the largest difference of the features.
"""

import functools
import importlib.util
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measure
from xmc_jax.frozen import inception

BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.")
RESOLUTION = flags.DEFINE_integer("resolution", 256, "Side of the images.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each implementation.", lower_bound=1)


def random_state():
    """Random arrays under the published names, scaled to keep activations bounded."""
    rng, state = np.random.default_rng(0), {}
    for name, shape in inception.entries().items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        mean = 0.0 if len(shape) > 1 or name.endswith(("bias", "mean")) else 1.0
        state[name] = (mean + scale * rng.standard_normal(shape)).astype(np.float32)
    return state


def make_ours(state, pixels):
    @jax.jit
    def apply(params, pixels):
        return inception.Inception().apply(params, inception.pytorch_fid_input(pixels))

    params, pixels = jax.device_put(inception.params_from(state)), jnp.asarray(pixels)
    return lambda: np.asarray(apply(params, pixels))


def make_reference(state, pixels):
    import torch
    from pytorch_fid import inception as reference

    network = reference._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    network.Mixed_5b = reference.FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = reference.FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = reference.FIDInceptionA(288, pool_features=64)
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(network, f"Mixed_{name}", reference.FIDInceptionC(768, channels_7x7=width))
    network.Mixed_7b, network.Mixed_7c = (
        reference.FIDInceptionE_1(1280),
        reference.FIDInceptionE_2(2048),
    )
    network.load_state_dict({name: torch.tensor(x) for name, x in state.items()}, strict=False)
    # The class would load the published file; give it this network instead.
    reference.fid_inception_v3 = lambda: network
    model = reference.InceptionV3([3]).eval()
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    def run():
        with torch.no_grad():
            return model(batch)[0][:, :, 0, 0].numpy()

    return run


def main(argv) -> None:
    measure.print_environment()
    shape = (BATCH_SIZE.value, RESOLUTION.value, RESOLUTION.value, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    state = random_state()
    sides = {"ours": make_ours(state, pixels)}
    if importlib.util.find_spec("pytorch_fid"):
        sides["pytorch-fid"] = make_reference(state, pixels)
    else:
        print("pytorch-fid is not installed: only ours runs (see the top of this file)")
    features = {name: run() for name, run in sides.items()}
    used: dict[str, list[float]] = {name: [] for name in sides}

    def note_processor_seconds(name):
        begin = time.process_time()
        result = sides[name]()
        used[name].append(time.process_time() - begin)
        return result

    runs = [functools.partial(note_processor_seconds, name) for name in sides]
    seconds = measure.time_in_turns(runs, REPEATS.value)
    processor_seconds = [statistics.median(own) for own in used.values()]
    rows = [
        [
            name,
            f"{BATCH_SIZE.value / clock:.2f}",
            f"{seconds[-1] / clock:.2f}x",
            f"{BATCH_SIZE.value / processor:.2f}",
            f"{processor_seconds[-1] / processor:.2f}x",
        ]
        for name, clock, processor in zip(sides, seconds, processor_seconds, strict=True)
    ]
    head = ["side", "images/s", "ratio", "images/processor second", "ratio"]
    measure.print_table(head, rows)
    if len(features) > 1:
        ours, other = features.values()
        difference = np.max(np.abs(ours - other)) / np.max(np.abs(other))
        print(f"largest difference over the largest feature: {difference:.1e}")


if __name__ == "__main__":
    app.run(main)
