"""Records of a built split, by index, and the examples made from them.

Worker processes import this module, so it imports neither TensorFlow nor JAX: each would cost a
worker a second and 100 MB.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import UInt8
from tensorflow_datasets.proto import tf_example_pb2

from xmc_jax.data import preprocess
from xmc_jax.errors import UserError, reason


class Records(Sequence):
    """The examples of a split as the builders wrote them; images stay encoded.

    A record is a dict with ``image`` (the bytes of the image file), ``image/id``,
    ``image/height``, ``image/width`` and ``captions`` (a dict of the lists ``text`` and ``id``).
    TFDS's own data source gives the same records, but takes a quarter of a millisecond for each,
    more than decoding a small image, and imports TensorFlow.

    Args:
      files: The serialised examples; the ``data_source`` of a TFDS data source.
      shards: The path of each file and the number of its examples, to name a damaged file.

    Raises:
      UserError: a file is missing, or is damaged in a way that shows when it is opened.
    """

    def __init__(self, files: ArrayRecordDataSource, shards: Sequence[tuple[str, int]]):
        self._files, self._shards = files, shards
        try:
            self._length = len(files)
        except Exception as error:  # The reader has no common kind of error.
            paths = [path for path, _ in shards]
            bad = _first_failing(lambda path: len(ArrayRecordDataSource([path])), paths)
            raise self._damage(error, bad) from error

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Reads several records at once, which costs one round trip to slow storage.

        Raises UserError if a file cannot be read.
        """
        try:
            # Reading several at once starts threads, which does not pay for one record.
            one = len(indices) == 1
            records = [self._files[indices[0]]] if one else self._files.__getitems__(indices)
            return [_parse(record) for record in records]
        except Exception as error:  # The reader and the parser have no common kind of error.
            bad = _first_failing(lambda index: _parse(self._files[index]), indices)
            ends = np.cumsum([length for _, length in self._shards])
            path = None if bad is None else self._shards[np.searchsorted(ends, bad, "right")][0]
            raise self._damage(error, path) from error

    def _damage(self, error: Exception, path: str | None) -> UserError:
        folder = os.path.dirname(self._shards[0][0])
        return UserError(
            f"{path or folder} is missing or damaged ({reason(error)}); restore it from a copy, or "
            f"delete {folder} and build the data set again with python -m xmc_jax.prepare"
        )


def _first_failing(use: Callable, arguments: Iterable) -> Any:
    """The first argument that a function raises an error for, or None."""
    for argument in arguments:
        try:
            use(argument)
        except Exception:
            return argument
    return None


def _parse(serialized: bytes) -> dict[str, Any]:
    features = tf_example_pb2.Example.FromString(serialized).features.feature

    def strings(name: str) -> list[str]:
        return [value.decode() for value in features[name].bytes_list.value]

    return {
        "image": features["image"].bytes_list.value[0],
        "image/id": strings("image/id")[0],
        "image/height": features["image/height"].int64_list.value[0],
        "image/width": features["image/width"].int64_list.value[0],
        "captions": {"text": strings("captions/text"), "id": strings("captions/id")},
    }


class Examples(NamedTuple):
    """Decoded examples, each with one of its captions.

    Attributes:
      image: RGB pixels, 0..255.
      captions: The selected captions.
    """

    image: UInt8[np.ndarray, "n side side 3"]
    captions: list[str]


class Selection(NamedTuple):
    """Which records to read, and how to select their captions.

    Attributes:
      indices: Indices of the records.
      draws: A number for each record; with the seed it decides which caption is selected.
      longest: Whether each record's longest caption is selected instead.
    """

    indices: list[int]
    draws: list[int]
    longest: bool = False


@dataclasses.dataclass(frozen=True)
class ExampleReader:
    """Reads a selection: decodes and resizes the images and selects the captions.

    `preprocess.resize` explains `crop` and `antialias`.
    """

    records: Records
    resolution: int
    crop: str
    antialias: bool
    seed: int

    def __call__(self, selection: Selection, stop: Callable[[], bool] = lambda: False) -> Examples:
        """Reads the records of a selection.

        Args:
          selection: Which records.
          stop: Asked before each image; if true, reading ends with `CancelledError`.

        Raises:
          UserError: a file cannot be read, or an image cannot be decoded.
        """
        records = self.records.read(selection.indices)
        images = np.empty((len(records), self.resolution, self.resolution, 3), np.uint8)
        for record, image in zip(records, images, strict=True):
            if stop():
                raise CancelledError
            image[:] = preprocess.load(
                record["image"],
                record["image/id"],
                self.resolution,
                crop=self.crop,
                antialias=self.antialias,
            )
        return Examples(images, select_captions(records, selection, self.seed))


def select_captions(records: list[dict[str, Any]], selection: Selection, seed: int) -> list[str]:
    """The caption that each record of a selection gives; of equally long ones the first."""
    if selection.longest:
        return [max(r["captions"]["text"], key=lambda text: len(text.split())) for r in records]
    draws = zip(records, selection.draws, strict=True)
    return [draw_caption(record, seed, draw)[1] for record, draw in draws]


def draw_caption(record: dict[str, Any], seed: int, draw: int) -> tuple[int, str]:
    """Index and text of one of a record's captions, decided by the seed and the draw."""
    texts = record["captions"]["text"]
    index = int(np.random.default_rng([seed, draw]).integers(len(texts)))
    return index, texts[index]
