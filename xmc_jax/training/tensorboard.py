"""What TensorBoard shows of a run while it trains.

Scalars: all numbers of training and evaluation. Images: `samples`, the grid of fixed captions.
Text: `captions`, laid out like the grid, and `config`. HParams: every field of the config under
its name on the command line (``model.resolution``).
"""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams.api import hparams_pb
from tensorboard.plugins.image.metadata import create_summary_metadata as image_metadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata as scalar_metadata
from tensorboard.plugins.text.metadata import create_summary_metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from xmc_jax.errors import UserError, reason
from xmc_jax.images import encode_png
from xmc_jax.parallel import processes
from xmc_jax.run.config import flatten


class EventWriter:
    """Writes events with TensorBoard's own writer: TensorFlow's would start its runtime.

    Args:
      folder: Of the events; None writes nothing.
    """

    def __init__(self, folder: str | None):
        self._file = EventFileWriter(folder) if folder else None

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers by name."""
        metadata = scalar_metadata(display_name="", description="")
        self._write(step, (_value(k, np.float32(x), metadata) for k, x in values.items()))

    def write_image(self, step: int, name: str, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes an image, 0..255."""
        height, width, _ = pixels.shape
        size = (str(width).encode(), str(height).encode())
        metadata = image_metadata(display_name="", description="")
        self._write(step, [_value(name, [*size, encode_png(pixels)], metadata)])

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes Markdown by name."""
        metadata = text_metadata(display_name="", description="")
        self._write(step, (_value(name, [x.encode()], metadata) for name, x in texts.items()))

    def write_hparams(self, values: Mapping[str, bool | int | float | str]) -> None:
        """Writes what describes the run, by name."""
        self._write(0, hparams_pb(dict(values)).value)

    def close(self) -> None:
        """Writes what is waiting, and ends."""
        if self._file:
            self._file.close()

    def _write(self, step: int, values: Iterable[Summary.Value]) -> None:
        if self._file:
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
            self._file.add_event(event)


def _value(name: str, x: np.ndarray | list[bytes], metadata: SummaryMetadata) -> Summary.Value:
    return Summary.Value(tag=name, tensor=make_tensor_proto(x), metadata=metadata)


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
      UserError: the events cannot be written; TensorFlow, which writes the files, has exceptions
        of its own for that.
    """
    try:
        writer = EventWriter(workdir if processes.is_first() else None)
        writer.write_hparams(flatten(config.to_dict()))
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
