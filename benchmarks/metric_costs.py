"""What metrics of image sets cost: seconds and memory of their arithmetic, and of their networks.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.metric_costs                  # 30,000 images
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.metric_costs --metric=cmmd --num_images=5000
    python -m benchmarks.metric_costs --network=dinov2 --network=clip         # Images per second

The arithmetic runs on random features of the width that the metric has, each metric in a process of
its own: the processor seconds of one comparison (a record's floor is a second one), and the largest
memory of the process, with both sets of features. Networks have the published sizes and random
weights; speed does not depend on them.
"""

import multiprocessing
import resource
import time
from concurrent import futures

import jax
import numpy as np
from absl import app, flags

from benchmarks import measure
from xmc_jax.frozen import hub, presets, weights
from xmc_jax.frozen.dinov2 import SIDE
from xmc_jax.metrics import frechet, kernel_distance, mmd, nearest, prdc


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """As an evaluation computes it when there are more vectors than dimensions."""
    return frechet.frechet_distance(frechet.moments(generated), frechet.moments(real))


# The function, the width of its features, and the numbers of vectors if they are not the flag's.
METRICS = {
    "fid": (frechet_distance, 2048, None),
    "kid": (kernel_distance.kernel_distance, 2048, None),
    "prdc": (prdc.prdc, 2048, None),
    "fd_dinov2": (frechet_distance, 1024, None),
    "prdc_dinov2": (prdc.prdc, 1024, None),
    "fd_clip": (frechet_distance, 768, None),
    "cmmd": (mmd.cmmd, 768, None),
    "fd_vgg16": (frechet_distance, 512, None),
    "nearest_train_vgg16": (nearest.nearest_distances, 512, (1_000, 10_000)),
}
NETWORKS = {"dinov2": SIDE, "clip": 336}

METRIC = flags.DEFINE_multi_enum("metric", None, METRICS, "Metrics; default: all.")
NETWORK = flags.DEFINE_multi_enum("network", [], NETWORKS, "Networks, in place of metrics.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 30_000, "Generated images, and real ones.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Images in a batch of a network.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed batches of a network.", lower_bound=1)


def cost_of_metric(name: str, num_images: int) -> tuple[str, float, float]:
    """Numbers of vectors, processor seconds, and the peak memory of this process in MB."""
    function, width, counts = METRICS[name]
    counts = counts or (num_images, num_images)
    rng = np.random.default_rng(0)
    sets = [rng.standard_normal((count, width), np.float32) for count in counts]
    begin = time.process_time()
    function(*sets)
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux: KiB.
    return " x ".join(f"{count:,}" for count in counts), seconds, peak


def build_network(name: str):
    """ViT-L/14 of DINOv2 or of CLIP at 336 px, as an evaluation calls it."""
    sizes = {"patch_size": 14, "num_layers": 24, "hidden_dim": 1024, "num_heads": 16}
    sizes |= {"intermediate_dim": 4096, "image_shape": (NETWORKS[name], NETWORKS[name], 3)}
    models = hub.keras_hub.models
    with weights.zero_initializers():
        if name == "dinov2":
            return models.DINOV2Backbone(**sizes)
        return models.CLIPVisionEncoder(**sizes)


def cost_of_network(name: str) -> tuple[float, float]:
    """Images per second of wall time, and per second of all processor cores."""
    network, side = build_network(name), NETWORKS[name]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.02 * rng.standard_normal(x.shape, np.float32) if weights.is_weight(x) else x,
        weights.params_of(network),
    )
    pixels = rng.standard_normal((BATCH_SIZE.value, side, side, 3), np.float32)
    apply = jax.jit(presets.make_apply(network))
    inputs = {"images": pixels}
    jax.block_until_ready(apply(params, inputs))
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(REPEATS.value):
        jax.block_until_ready(apply(params, inputs))
    count = REPEATS.value * BATCH_SIZE.value
    return count / (time.perf_counter() - wall), count / (time.process_time() - processor)


def main(argv) -> None:
    measure.print_environment()
    if NETWORK.value:
        rows = [[name, NETWORKS[name], *cost_of_network(name)] for name in NETWORK.value]
        header = ["network", "px", "images per second", "images per processor second"]
        measure.print_table(header, rows)
        return
    rows = []
    context = multiprocessing.get_context("spawn")
    for name in METRIC.value or METRICS:
        with futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            done = pool.submit(cost_of_metric, name, NUM_IMAGES.value)
            rows.append([name, METRICS[name][1], *done.result()])
    header = ["metric", "dimensions", "vectors", "processor seconds", "peak MB"]
    measure.print_table(header, rows)


if __name__ == "__main__":
    app.run(main)
