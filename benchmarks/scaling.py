"""Scaling, by the TPU compiler: what a step costs each device as slices, batches and shares grow.

    python -m benchmarks.scaling --config=configs/shapes_128.py \
        --config.model.generator_width=8 --config.model.discriminator_width=8
    python -m benchmarks.scaling --config=configs/shapes_128.py --slices=v4:2x2x2 --fsdp=1,2,4,8

Compiles one step a slice and share (`xmc_jax.planning`) and runs none. A step scales if the numbers
of a device stay; contrastive terms grow with the batch, as everything is scored against everything.
"""

import itertools
import sys

from absl import flags

from benchmarks import measure
from xmc_jax import cli

SLICES = flags.DEFINE_list(
    "slices", ["v4:2x2x1", "v4:2x2x4", "v4:4x4x4", "v4:8x8x8"], "TPU slices, by name."
)
FSDP = flags.DEFINE_list("fsdp", ["1"], "Devices that share one copy of the parameters.")
IMAGES = flags.DEFINE_integer("images", 8, "Images of a micro-batch on a device.")
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
MEMORY = ("arguments", "temporaries", "total")


def main():
    config = cli.required_config()

    from xmc_jax.planning import plan as planning
    from xmc_jax.planning import topology

    rows, versions = [], {}
    for name, fsdp in itertools.product(SLICES.value, map(int, FSDP.value)):
        config.batch_size = IMAGES.value * len(topology.find_devices(name))
        plan = planning.make_plan(config, name, fsdp=fsdp)
        rows.append(
            (
                *(name, plan.num_chips, fsdp, plan.batch_size, plan.flops / 1e9),
                *(plan.memory[part] / 1e6 for part in MEMORY),
                *(plan.collective_bytes.get(kind, 0) / 1e6 for kind in KINDS),
                plan.compile_seconds,
            )
        )
        versions = plan.versions
        print(*rows[-1], file=sys.stderr, flush=True)  # What is done should not be lost.
    header = ("slice", "chips", "fsdp", "batch", "GFLOP")
    print(f"each device, a step, MB; {versions}")
    measure.print_table((*header, *MEMORY, *KINDS, "seconds to compile"), rows)


if __name__ == "__main__":
    cli.define_config_flag()
    cli.run(main)
