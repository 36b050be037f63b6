"""A picture of real images beside those that a model draws from their captions.

    python -m benchmarks.real_and_drawn --workdir=runs/emoji_64 --out=docs/emoji.png

The captions are the first of those that training shows in samples/: of the evaluation split, chosen
by `config.eval.seed` alone; or those of another split, chosen alike. Under each caption stands its
real image, then what the noises of seed 0 draw.
"""

import io

import numpy as np
from absl import flags
from PIL import Image

import xmc_jax
from xmc_jax import cli
from xmc_jax.data import catalog
from xmc_jax.data.records import ExampleReader, Selection
from xmc_jax.data.streams import choose_examples
from xmc_jax.inference.sample import captioned_rows
from xmc_jax.run.config import read_config
from xmc_jax.training.preview import NUM_CAPTIONS

OUT = flags.DEFINE_string("out", "pictures.png", "File of the picture, *.png.")
COUNT = flags.DEFINE_integer("num_captions", 12, "Captions.", 1, NUM_CAPTIONS)
SPLIT = flags.DEFINE_string("split", None, "Another split, e.g. test_comp.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 3, "Generated images of each caption.", 1)
NUM_COLUMNS = flags.DEFINE_integer("num_columns", 2, "Captions side by side.", 1)
cli.define_workdir_flag("Folder of the run.")
cli.define_data_dir_flag()


def main():
    """Reads, generates, draws."""
    cli.set_up_jax()
    workdir, data_dir = cli.required("workdir"), flags.FLAGS.data_dir
    config = read_config(workdir)
    data, seed = config.data, config.eval.seed
    if SPLIT.value:
        with config.unlocked():
            data.eval_split = SPLIT.value
    source = catalog.open_eval_split(config, data_dir)
    chosen = choose_examples(len(source), NUM_CAPTIONS, seed)[: COUNT.value]
    read = ExampleReader(source, config.model.resolution, data.crop, data.antialias, seed)
    real = read(Selection(chosen, chosen))
    model = xmc_jax.load(workdir)
    drawn = model.generate(real.captions, num_images=NUM_IMAGES.value, seed=0)
    drawn = drawn.reshape(len(chosen), NUM_IMAGES.value, *drawn.shape[1:])
    rows = np.concatenate([real.image[:, None], drawn], axis=1)
    columns = []
    for part in np.array_split(np.arange(len(chosen)), NUM_COLUMNS.value):
        page = captioned_rows([real.captions[index] for index in part], rows[part])
        columns.append(np.asarray(Image.open(io.BytesIO(page))))
    height = max(len(column) for column in columns)
    columns = [
        np.pad(x, ((0, height - len(x)), (0, 12), (0, 0)), constant_values=255) for x in columns
    ]
    Image.fromarray(np.concatenate(columns, axis=1)).save(OUT.value, optimize=True)
    print(f"wrote {OUT.value}")


if __name__ == "__main__":
    cli.run(main)
