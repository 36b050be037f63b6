"""The fixed captions whose images show the progress of a run."""

import json
from typing import Any

from etils import epath

from xmc_jax import files, images
from xmc_jax.data.records import Records, draw_caption
from xmc_jax.data.streams import choose_examples
from xmc_jax.experiment import Experiment
from xmc_jax.inference.sampler import Sampler
from xmc_jax.parallel import processes
from xmc_jax.run.folder import captions_path, sample_path
from xmc_jax.types import PyTree

NUM_COLUMNS = 8
NUM_CAPTIONS = 32
_MIN_PIXELS = 96  # Smaller images are enlarged, so that people can see them.


class Preview:
    """Generates a grid of the same captions at any step.

    Attributes:
      captions: What the grid shows, row by row.
      tokens: Their tokens.

    Args:
      experiment: The networks.
      source: The split that captions are drawn from; they depend on it and on ``config.eval.seed``.
      workdir: Folder of the run.
    """

    def __init__(self, experiment: Experiment, source: Records, workdir: epath.PathLike):
        self._seed, self._workdir = experiment.config.eval.seed, workdir
        indices = choose_examples(len(source), NUM_CAPTIONS, self._seed)
        self.captions = [
            draw_caption(record, self._seed, index)[1]
            for record, index in zip(source.read(indices), indices, strict=True)
        ]
        self.tokens = experiment.tokenizer(self.captions)
        self._sampler = Sampler(experiment, len(self.tokens))
        self._factor = max(1, _MIN_PIXELS // experiment.config.model.resolution)

    def write_captions(self) -> None:
        """Writes what the grids show, for the report.

        Raises:
          UserError: the file cannot be written.
        """
        layout = {"captions": self.captions, "columns": NUM_COLUMNS}
        files.write_whole(
            captions_path(self._workdir), f"{json.dumps(layout, indent=2)}\n".encode()
        )

    def generate(self, step: int, ema: PyTree, writer: Any) -> None:
        """Writes the grid of a step: a PNG in the workdir, and an event for TensorBoard.

        All processes call it; the first one writes.

        Args:
          step: The step, which names the grid.
          ema: Averaged parameters and statistics of the generator.
          writer: See `tensorboard.open_writer`.

        Raises:
          UserError: the file cannot be written.
        """
        generated = self._sampler(ema, self.tokens, seed=self._seed)
        if processes.is_first():
            grid = images.make_grid(generated, num_columns=NUM_COLUMNS)
            grid = images.enlarge(grid, self._factor)
            files.write_whole(sample_path(self._workdir, step), images.encode_png(grid))
            writer.write_image(step, "samples", grid)
