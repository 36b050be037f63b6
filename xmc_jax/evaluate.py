"""Measures a trained model: a run by its folder, or an exported model.

    python -m xmc_jax.evaluate --workdir=runs/one_shape_32
    python -m xmc_jax.evaluate --workdir=runs/one_shape_32 --step=2000 --metrics=shapes_accuracy
    python -m xmc_jax.evaluate --workdir=runs/one_shape_32 --split=test_comp
    python -m xmc_jax.evaluate --workdir=runs/one_shape_32 --watch
    python -m xmc_jax.evaluate --workdir=exports/one_shape_32

Metrics, as far as they are available for the run (docs/metrics.md): shapes_accuracy and
shapes_accuracy_trained (whether images of the shapes data show what their captions say, read from
the pixels by rules and by a small trained network); shapes_diversity (how different the images of
one caption are); emoji_retrieval (whether a small network trained on real emoji finds the caption
of an image among 32); fd_vgg16 (Fréchet distance in features of VGG-16) and nearest_train_vgg16
(distances to the nearest training images: are images copies?); with --set=inception_weights=PATH,
fid, kid, is and prdc, whose names have the number of images, such as fid30k; with
--set=dinov2=PRESET, fd_dinov2 and prdc_dinov2; with --set=clip=PRESET, clip_score,
clip_r_precision, in_batch_r_precision, fd_clip, cmmd and cmmd_unbiased; with
--set=detector=PRESET, soa_c and soa_i, and compose (objects, counts, colours and positions that
captions name; colours need a CLIP as well, and shapes neither).

Prints a table and appends to metrics.jsonl in the folder. A killed evaluation resumes when it is
started again.
"""

from collections.abc import Sequence

from absl import flags

from xmc_jax import cli
from xmc_jax.errors import UserError
from xmc_jax.run.config import read_config


def main() -> None:
    """Reads the flags and measures."""
    values = flags.FLAGS
    workdir, names = cli.required("workdir"), tuple(name for name in values.metrics if name)
    if values.watch and values.step is not None:
        raise UserError("--watch measures every checkpoint; leave out --step")
    if values.watch and values.split:
        raise UserError("--watch measures on the run's own evaluation split; leave out --split")
    settings = _parse_settings(values.set)
    if not values.watch:
        read_config(workdir)  # Refuses a wrong folder before JAX is loaded.
    cli.set_up_jax()
    # JAX and Flax take two seconds to import: --help must not wait for them.
    from xmc_jax.evaluation import request

    if values.watch:
        request.wait_for_run(workdir)
    request.read_request(workdir, names, settings, values.split)

    # Keras and Orbax take seconds: `request` refuses mistakes before that.
    from xmc_jax.evaluation.run import evaluate, watch

    if values.watch:
        watch(workdir, values.data_dir, names, settings)
    else:
        evaluate(workdir, values.data_dir, names, values.step, settings, values.split)


def _parse_settings(given: Sequence[str]) -> dict[str, str]:
    parts = [text.partition("=") for text in given]
    for name, equals, _ in parts:
        if not equals:
            raise UserError(f"--set={name} has no value; write --set=FIELD=VALUE")
    return {name.removeprefix("config.").removeprefix("eval."): value for name, _, value in parts}


def _define_flags() -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of a training run or of an exported model; the numbers go to metrics.jsonl in it.",
    )
    cli.define_data_dir_flag()
    cli.define_process_flags()
    flags.DEFINE_integer(
        "step", None, "Step of the checkpoint to measure; the newest if not given."
    )
    flags.DEFINE_string(
        "split",
        None,
        "Split to measure on, e.g. test_comp; the run's own config.data.eval_split if not given.",
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "FIELD=VALUE: a value of a field of config.eval for this evaluation only, e.g. "
        "--set=inception_weights=PATH --set=num_examples=30000.",
    )
    flags.DEFINE_bool(
        "watch",
        False,
        "Measure every checkpoint of a run as it is saved, until the last step; may be stopped "
        "and started again.",
    )
    flags.DEFINE_list(
        "metrics",
        [],
        "Metrics, e.g. shapes_accuracy,fd_vgg16; all that are available if not given. A wrong name "
        "lists those of the run.",
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
