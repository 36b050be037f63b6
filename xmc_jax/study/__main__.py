"""Builds a human study that compares the images of two systems, and analyses its ratings.

    python -m xmc_jax.study build --a=runs/mine --b=runs/other --captions=captions.txt --out=study
    python -m xmc_jax.study analyse --key=study/key.json ratings/*.json

build writes study/for_raters/study.html, one file that works without a network. Send it to the
raters, and give each a number of their own. Keep study/key.json, which says which system made which
image, to yourself. --a and --b are folders of runs or of exported models (or hf://USER/NAME, one on
the Hugging Face Hub), which generate images for the captions, or folders of images whose names
begin with the number of their caption, from 0, as `sample` writes them.

analyse reads the JSON files that raters saved, and reports how often each system was preferred, for
quality and for alignment with the caption, with 95 % intervals clustered by caption, a sign test,
the agreement of raters, and a table of captions. It also writes analysis.json beside the key.
"""

import json
from pathlib import Path

from absl import flags

from xmc_jax import cli, files
from xmc_jax.errors import UserError
from xmc_jax.study import analyse


def main(arguments: list[str]) -> None:
    """Runs the command that the first argument names."""
    command, *rest = arguments or [""]
    if command == "build":
        _build(rest)
    elif command == "analyse":
        _analyse(rest)
    else:
        given = f"no command {command!r}" if command else "a command is missing"
        raise UserError(f"{given}: say `study build` or `study analyse`; --help explains both")


def _build(arguments: list[str]) -> None:
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}; flags are written --name=value")
    sources, out = [cli.required("a"), cli.required("b")], _local(cli.required("out"))
    captions = cli.read_captions_file("captions")
    if not captions:
        raise UserError(f"--captions={flags.FLAGS.captions} has no caption in it")
    cli.set_up_jax()
    # It imports JAX: --help and `analyse` need not wait for that.
    from xmc_jax.study import build

    options = flags.FLAGS
    written = build.build(sources, captions, out, num_raters=options.raters, seed=options.seed)
    size = sum(path.stat().st_size for path in written) / 1e6
    print(f"for raters: {', '.join(map(str, written))} ({len(captions)} captions, {size:.1f} MB)")
    print(f"for you alone: {out / build.KEY_FILE}")
    print(f"give each rater a number from 1 to {options.raters}, or a link: study.html#rater=1")


def _analyse(arguments: list[str]) -> None:
    key_path = _local(cli.required("key"))
    if not arguments:
        raise UserError("no ratings: name the JSON files that raters saved, e.g. ratings/*.json")
    key = analyse.read_key(key_path)
    results = analyse.analyse(key, [analyse.read_ratings(Path(path), key) for path in arguments])
    print(analyse.format_text(results))
    out = _local(flags.FLAGS.out or key_path.parent / "analysis.json")
    files.write_whole(out, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    print(f"\nwrote {out}")


def _local(path: str | Path) -> Path:
    if files.is_remote(path):
        raise UserError(f"{path} is not on this machine, where studies are kept; name a local path")
    return Path(path).expanduser()


def _define_flags() -> None:
    flags.DEFINE_string("a", None, "build: folder of the first system.")
    flags.DEFINE_string("b", None, "build: folder of the second system.")
    flags.DEFINE_string("captions", None, "build: text file with one caption on each line.")
    flags.DEFINE_integer("raters", 20, "build: number of raters to prepare for.", lower_bound=1)
    cli.define_seed_flag("build: seed of the noise that models generate images from.")
    flags.DEFINE_string("key", None, "analyse: key.json of the study.")
    flags.DEFINE_string(
        "out", None, "build: folder for the study. analyse: file for the results, as JSON."
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
