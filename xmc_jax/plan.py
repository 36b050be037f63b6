"""Tells what a training step costs on devices that need not be there, before anyone pays for them.

    python -m xmc_jax.plan --config=configs/coco_256.py --topology=v4:2x2x4 --out=plan.json
    python -m xmc_jax.plan --config=configs/coco_256.py --topology=v5e:8x8 --largest_batch
    python -m xmc_jax.plan --config=configs/shapes_32.py           # for the attached devices

Compiles the very step that `train` runs, and prints its memory, arithmetic, traffic and largest
buffers. Needs no data set, weights or network, and touches no TPU: a slice is described to the TPU
compiler (libtpu, which `pip install -e '.[tpu]'` brings). At 256 px that takes many minutes.
"""

from pathlib import Path

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError


def main() -> None:
    """Reads the flags and plans."""
    config, out = cli.required_config(), _out_file(flags.FLAGS.out)

    topology, fsdp = flags.FLAGS.topology, flags.FLAGS.fsdp

    import dataclasses
    import json

    from xmc_jax.planning.topology import ATTACHED, find_devices

    if topology == ATTACHED:
        cli.set_up_jax()  # What is compiled here need not be by `train`.
    find_devices(topology)  # A wrong name should not wait for what follows.

    from xmc_jax.planning import plan as planning

    make = planning.find_largest_batch if flags.FLAGS.largest_batch else planning.make_plan
    plan = make(config, topology, fsdp=fsdp)
    fields = dataclasses.asdict(plan)
    for name in ("largest_collectives", "largest_buffers"):
        fields[name] = [buffer._asdict() for buffer in fields[name]]
    text = json.dumps(fields, indent=2)
    if out:
        out.write_text(text + "\n")
    print(text if flags.FLAGS.json else describe(plan), flush=True)


def describe(plan) -> str:
    """A `planning.Plan` for people; MB and GB are 10^6 and 10^9 bytes."""
    on_chips = ""
    if plan.num_chips != plan.num_devices:
        on_chips = f", {plan.num_devices // plan.num_chips} on each of {plan.num_chips} chips"
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    rows = {
        "devices": f"{plan.num_devices} x {plan.device_kind}{on_chips} ({plan.topology}), "
        f"fsdp {plan.fsdp}",
        "batch": f"{plan.batch_size} images, {plan.batch_size // plan.num_devices} a device; "
        f"{plan.num_micro_batches} such micro-batches a step",
        "parameters": ", ".join(f"{name} {n:,}" for name, n in plan.parameters.items()),
        "compiled": f"in {plan.compile_seconds:.0f} s with {versions}",
    }
    on_each = {
        "memory": _memory(plan),
        "arithmetic": _arithmetic(plan),
        "collectives": _collectives(plan),
    }
    return "\n".join(
        [
            *_table(rows),
            "\non each device, a step",
            *_table(on_each),
            "\nlargest results of collectives",
            *map(_buffer, plan.largest_collectives),
            "\nlargest other buffers, arguments apart, not all at the same time",
            *map(_buffer, plan.largest_buffers),
        ]
    )


def _table(rows: dict[str, str]) -> list[str]:
    return [f"  {name:<12}{row}" for name, row in rows.items()]


def _memory(plan) -> str:
    limit = f" of {plan.memory_limit / 1e9:.2f}" if plan.memory_limit else ""
    size = {name: f"{value / 1e9:.2f}" for name, value in plan.memory.items()}
    return (
        f"{size['total']}{limit} GB: arguments {size['arguments']}, temporaries "
        f"{size['temporaries']}, outputs {size['outputs']} ({size['aliased']} of it in the place "
        f"of arguments), program {size['code']}"
    )


def _arithmetic(plan) -> str:
    flops = f"{plan.flops / 1e12:.4g} TFLOP"
    if not plan.peak_flops:
        return flops
    peak = f"{plan.peak_flops / 1e12:g} TFLOP/s"
    return f"{flops}, at least {plan.floor_seconds * 1e3:.4g} ms at {peak}"


def _collectives(plan) -> str:
    kinds = [f"{kind} {_megabytes(size)}" for kind, size in plan.collective_bytes.items()]
    return ", ".join(kinds) or "none"


def _buffer(buffer) -> str:
    return (
        f"  {_megabytes(buffer.num_bytes):>12}  {buffer.count:>3} x {buffer.shape}  {buffer.op}  "
        f"{buffer.name}"
    ).rstrip()


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.4g} MB"


def _out_file(name: str | None) -> Path | None:
    """The file of ``--out``; a wrong one is found before anything slow begins."""
    if not name:
        return None
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"cannot write --out={name}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"cannot write --out={name}: there is no folder {path.parent}; make it")
    return path


def _define_flags() -> None:
    cli.define_config_flag()
    flags.DEFINE_string(
        "topology",
        "attached",
        "TPU slice to compile for, as v4:2x2x4 or v5e:4x4; or the attached devices.",
    )
    flags.DEFINE_integer("fsdp", 1, "Devices that share one copy of the parameters.")
    flags.DEFINE_bool("largest_batch", False, "Find the largest global batch that fits.")
    flags.DEFINE_string("out", None, "File for the plan as JSON.")
    flags.DEFINE_bool("json", False, "Print JSON, not a table.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
