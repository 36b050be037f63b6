"""What TensorBoard shows of a run while it trains; of evaluations see `evaluation.results`.

Scalars: all numbers of training. Images: `samples`, the grid of fixed captions. Text: `captions`,
laid out like the grid, and `config`. HParams: every field of the config under its name on the
command line (``model.resolution``).
"""

import contextlib
import json
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from xmc_jax.parallel import processes
from xmc_jax.run.config import flatten
from xmc_jax.run.events import EventWriter


@contextlib.contextmanager
def open_writer(
    workdir: str, config: ConfigDict, captions: Sequence[str], columns: int
) -> Iterator[EventWriter]:
    """A writer of TensorBoard events that has described the run already.

    Every process opens one; those of all but the first write nothing.

    Args:
      workdir: Folder of the events.
      config: Config of the run.
      captions: What the grids of samples show, row by row.
      columns: Images of a row.

    Raises:
      UserError: see `EventWriter`.
    """
    texts = {
        "captions": _as_table(captions, columns),
        "config": f"```json\n{json.dumps(config.to_dict(), indent=2)}\n```",
    }
    with contextlib.closing(EventWriter(workdir if processes.is_first() else None)) as writer:
        writer.write_hparams(flatten(config.to_dict()))
        writer.write_texts(0, texts)
        yield writer


def _as_table(captions: Sequence[str], columns: int) -> str:
    """A Markdown table with a caption where the grid has its image."""
    cells = [caption.replace("|", "\\|").replace("\n", " ") for caption in captions]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    head = [[""] * columns, ["---"] * columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)
