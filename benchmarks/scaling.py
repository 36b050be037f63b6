"""Weak scaling, by the TPU compiler: what a step costs each device as slices and batches grow.

    python -m benchmarks.scaling --config=configs/shapes_128.py \
        --config.model.generator_width=8 --config.model.discriminator_width=8

Compiles one step a slice (`xmc_jax.planning`) and runs none. A step scales if the numbers of a
device stay; contrastive terms grow with the batch, as everything is scored against everything.
"""

import sys

from absl import flags

from benchmarks import measure
from xmc_jax import cli

SLICES = flags.DEFINE_list(
    "slices", ["v4:2x2x1", "v4:2x2x4", "v4:4x4x4", "v4:8x8x8"], "TPU slices, by name."
)
IMAGES = flags.DEFINE_integer("images", 8, "Images of a micro-batch on a device.")
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


def main():
    config = cli.required_config()

    from xmc_jax import planning, topology

    rows, versions = [], {}
    for name in SLICES.value:
        config.batch_size = IMAGES.value * len(topology.find_devices(name))
        plan = planning.make_plan(config, name)
        moved = [plan.collective_bytes.get(kind, 0) / 1e6 for kind in KINDS]
        row = (plan.num_chips, plan.batch_size, plan.flops / 1e9, plan.memory["total"] / 1e6)
        rows.append((name, *row, *moved, plan.compile_seconds))
        versions = plan.versions
        print(*rows[-1], file=sys.stderr, flush=True)  # What is done should not be lost.
    header = ("slice", "chips", "batch", "GFLOP", "memory MB")
    print(f"each device, a step; {versions}")
    measure.print_table((*header, *(f"{kind} MB" for kind in KINDS), "compile s"), rows)


if __name__ == "__main__":
    cli.define_config_flag()
    cli.run(main)
