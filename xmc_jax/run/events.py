"""Event files, which TensorBoard reads."""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image.metadata import create_summary_metadata as image_metadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata as scalar_metadata
from tensorboard.plugins.text.metadata import create_summary_metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from xmc_jax.errors import UserError
from xmc_jax.files import writing
from xmc_jax.images import encode_png

_FLUSH_SECONDS = 30.0  # A bucket may have to send the whole file each time.
_serial = itertools.count()  # Tells files apart that one process begins in one second.


class EventWriter:
    """Writes an event file, without TensorFlow, whose writer would start its runtime.

    Args:
      folder: Of the file, local or remote; None writes nothing.

    Raises:
      UserError: the file cannot be written; from any method.
    """

    def __init__(self, folder: epath.PathLike | None):
        self._records = None
        if folder:
            made = f"{socket.gethostname()}.{os.getpid()}.{next(_serial)}"
            name = f"events.out.tfevents.{int(time.time())}.{made}"
            self._path = epath.Path(folder) / name
            with self._writing():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._records = RecordWriter(self._path.open("wb"))
            self._flushed = time.monotonic()
            try:
                self._write_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
            except UserError:
                self.close()
                raise

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
        if self._records:
            with self._writing():
                self._records.close()

    def _write(self, step: int, values: Iterable[Summary.Value]) -> None:
        if self._records:
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
            self._write_event(event)

    def _write_event(self, event: Event) -> None:
        with self._writing():
            self._records.write(event.SerializeToString())
            if time.monotonic() > self._flushed + _FLUSH_SECONDS:
                self._records.flush()
                self._flushed = time.monotonic()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self._path, then="start again: what is saved is not repeated")


def _value(name: str, x: np.float32 | list[bytes], metadata: SummaryMetadata) -> Summary.Value:
    return Summary.Value(tag=name, tensor=make_tensor_proto(x), metadata=metadata)
