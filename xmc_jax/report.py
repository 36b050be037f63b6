"""Writes a self-contained page about a run, ``workdir/report.html``.

    python -m xmc_jax.report --workdir=runs/one_shape_32

The page needs no network: curves are inline SVG, and images are inline bytes.
"""

from absl import flags

from xmc_jax import cli
from xmc_jax.run.config import read_config


def main() -> None:
    """Writes the report of ``--workdir`` and prints its path."""
    workdir = cli.required("workdir")
    read_config(workdir)  # Finds a wrong folder before Matplotlib is imported.

    from xmc_jax.pages import report  # --help must not wait for Matplotlib.

    print(f"wrote {report.write_report(workdir)}")


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run; report.html is written into it.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
