"""Computes what a training step costs on given devices, before anyone pays for them.

    python -m xmc_jax.plan --config=configs/coco_256.py --topology=v4:2x2x4 --out=plan.json
    python -m xmc_jax.plan --config=configs/coco_256.py --topology=v5e:8x8 --largest_batch
    python -m xmc_jax.plan --config=configs/shapes_32.py           # for the attached devices

Compiles the same step that `train` runs and prints its memory, arithmetic, communication and
largest buffers. Needs no data set, no weights, no network and no TPU: the TPU compiler (libtpu,
installed by `pip install 'jax[tpu]'`) gets a description of the slice. At 256 px this takes many
minutes.
"""

from absl import flags
from etils import epath

from xmc_jax import cli, files
from xmc_jax.errors import UserError


def main() -> None:
    """Reads the flags, and writes and prints the plan."""
    config, out = cli.required_config(), _out_file(flags.FLAGS.out)
    topology, fsdp = flags.FLAGS.topology, flags.FLAGS.fsdp

    from xmc_jax.planning import plan as planning  # --help must not wait for JAX.

    if topology == planning.ATTACHED:
        cli.set_up_jax()  # With a cache; programs for described devices are of no use to `train`.
    make = planning.find_largest_batch if flags.FLAGS.largest_batch else planning.make_plan
    plan = make(config, topology, fsdp=fsdp)
    if out:
        files.write_whole(out, f"{planning.to_json(plan)}\n".encode())
    text = planning.to_json(plan) if flags.FLAGS.json else planning.to_text(plan)
    print(text, flush=True)


def _out_file(name: str | None) -> epath.Path | None:
    """The file of ``--out``, checked before the compilation begins."""
    if not name:
        return None
    path = epath.Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"cannot write --out={name}: it is a folder; name a file in it")
    if not files.is_remote(path) and not path.parent.is_dir():
        raise UserError(f"cannot write --out={name}: there is no folder {path.parent}; create it")
    return path


def _define_flags() -> None:
    cli.define_config_flag()
    flags.DEFINE_string(
        "topology",
        "attached",
        "TPU slice to compile for, such as v4:2x2x4 or v5e:4x4; or the attached devices.",
    )
    flags.DEFINE_integer("fsdp", 1, "Number of devices that share one copy of the parameters.")
    flags.DEFINE_bool("largest_batch", False, "Find the largest global batch that fits.")
    flags.DEFINE_string("out", None, "File for the plan as JSON.")
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
