"""What TensorBoard shows of a run while it trains.

Scalars: every number of training. Images: `samples`, the grid of fixed captions. Text: `captions`,
laid out as the grid is, and `config`. HParams: every field of the config, named as on the command
line (``model.resolution``).
"""

import json
from collections.abc import Sequence

from clu import metric_writers
from ml_collections import ConfigDict

from xmc_jax.parallel import processes


def make_writer(
    workdir: str, config: ConfigDict, captions: Sequence[str], columns: int
) -> metric_writers.MetricWriter:
    """A writer of TensorBoard events, that has told of the run already.

    Every process makes one; those of all but the first write nothing.

    Args:
      workdir: Where the events go.
      config: Of the run.
      captions: What the grids of samples show, row by row.
      columns: Pictures of a row.
    """
    writers = [metric_writers.SummaryWriter(workdir)] if processes.is_first() else []
    writer = metric_writers.MultiWriter(writers)
    writer.write_hparams(config.to_dict())
    writer.write_texts(
        0,
        {
            "captions": _as_table(captions, columns),
            "config": f"```json\n{json.dumps(config.to_dict(), indent=2)}\n```",
        },
    )
    return writer


def _as_table(captions: Sequence[str], columns: int) -> str:
    """A Markdown table with a caption where the grid has its picture."""
    cells = [caption.replace("|", "\\|").replace("\n", " ") for caption in captions]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    head = [[""] * columns, ["---"] * columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)
