"""What TensorBoard shows of a run while it trains.

Scalars: all numbers of training and evaluation. Images: `samples`, the grid of fixed captions.
Text: `captions`, laid out like the grid, and `config`. HParams: every field of the config under
its name on the command line (``model.resolution``).
"""

import contextlib
import json
from collections.abc import Iterator, Sequence

from clu import metric_writers
from ml_collections import ConfigDict

from xmc_jax.errors import UserError, reason
from xmc_jax.parallel import processes


@contextlib.contextmanager
def open_writer(
    workdir: str, config: ConfigDict, captions: Sequence[str], columns: int
) -> Iterator[metric_writers.MetricWriter]:
    """A writer of TensorBoard events that has described the run already.

    Every process opens one; those of all but the first write nothing.

    Args:
      workdir: Folder of the events.
      config: Config of the run.
      captions: What the grids of samples show, row by row.
      columns: Images of a row.

    Raises:
      UserError: the events cannot be written; TensorFlow has exceptions of its own for that.
    """
    writers = [metric_writers.SummaryWriter(workdir)] if processes.is_first() else []
    try:
        writer = metric_writers.MultiWriter(writers)
        writer.write_hparams(config.to_dict())
        writer.write_texts(
            0,
            {
                "captions": _as_table(captions, columns),
                "config": f"```json\n{json.dumps(config.to_dict(), indent=2)}\n```",
            },
        )
        yield writer
        writer.close()
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow."):
            raise
        raise UserError(
            f"cannot write TensorBoard's events in {workdir}: {reason(error)}; mend that and start "
            "again: training resumes from the last checkpoint"
        ) from error


def _as_table(captions: Sequence[str], columns: int) -> str:
    """A Markdown table with a caption where the grid has its image."""
    cells = [caption.replace("|", "\\|").replace("\n", " ") for caption in captions]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    head = [[""] * columns, ["---"] * columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)
