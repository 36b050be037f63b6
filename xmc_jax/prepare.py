"""Builds a data set, once, for training and evaluation to read.

    python -m xmc_jax.prepare --dataset=shapes --data_dir=~/tensorflow_datasets --resolution=64

Writes TFDS's array_record files and build_report.json. A build that is cut off leaves nothing that
looks complete; run the same command again.
"""

from absl import flags

from xmc_jax import cli


def main() -> None:
    """Reads the flags and builds."""
    name = cli.required("dataset")
    from xmc_jax.data import reader

    builder = reader.make_builder(
        name,
        resolution=flags.FLAGS.resolution,
        data_dir=flags.FLAGS.data_dir,
        narrative=flags.FLAGS.narrative,
        scale=flags.FLAGS.scale,
    )
    known = builder.is_prepared()
    folder = reader.build(builder)
    counts = ", ".join(
        f"{split} {info.num_examples}" for split, info in builder.info.splits.items()
    )
    print(f"{'already built' if known else 'built'}: {folder} ({counts})")


def _define_flags() -> None:
    flags.DEFINE_string("dataset", None, "Name of the data set: shapes.")
    cli.define_data_dir_flag()
    flags.DEFINE_integer("resolution", 32, "Side of the images in pixels.")
    flags.DEFINE_bool(
        "narrative", False, "One long description an image instead of five short captions."
    )
    flags.DEFINE_float("scale", 1.0, "Share of the full splits to build, above 0, at most 1.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
