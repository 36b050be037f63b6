"""How the cost of a step per device grows with slices, batches and shards, by the TPU compiler.

    python -m benchmarks.scaling --config=configs/shapes_128.py \
        --config.model.generator_width=8 --config.model.discriminator_width=8
    python -m benchmarks.scaling --config=configs/shapes_128.py --slices=v4:2x2x2 --fsdp=1,2,4,8

Compiles one step for each slice and value of --fsdp (`xmc_jax.planning`) and runs none. A step
scales if the numbers per device stay constant. The cost of the contrastive terms grows with the
batch, because every image is scored against every caption.
"""

import itertools
import sys

from absl import flags

from benchmarks import measure
from xmc_jax import cli

SLICES = flags.DEFINE_list(
    "slices", ["v4:2x2x1", "v4:2x2x4", "v4:4x4x4", "v4:8x8x8"], "TPU slices, by name."
)
FSDP = flags.DEFINE_list("fsdp", ["1"], "Numbers of devices that share one copy of the parameters.")
IMAGES = flags.DEFINE_integer("images", 8, "Images of a micro-batch per device.")
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
MEMORY = ("arguments", "temporaries", "total")


def main():
    config = cli.required_config()

    from xmc_jax.planning import plan as planning  # --help must not wait for TensorFlow.
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
        print(*rows[-1], file=sys.stderr, flush=True)  # So that an interruption loses no results.
    header = ("slice", "chips", "fsdp", "batch", "GFLOP")
    print(f"per device and step, in MB; {versions}")
    measure.print_table((*header, *MEMORY, *KINDS, "seconds to compile"), rows)


if __name__ == "__main__":
    cli.define_config_flag()
    cli.run(main)
