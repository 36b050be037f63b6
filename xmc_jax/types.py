"""The few types that every layer shares."""

from typing import Any, NamedTuple

from jaxtyping import Array, Int32, UInt8

PyTree = Any  # Nested containers of arrays; JAX has no type for them.


class Batch(NamedTuple):
    """Examples as they travel to the device: bytes of pixels and token ids.

    Training batches carry a leading axis of micro-batches (``d_steps`` of them a step).

    Attributes:
      image: RGB pixels, 0..255.
      tokens: WordPiece ids, ``[CLS] … [SEP]`` then 0 (``[PAD]``) to the fixed length ``t``.
    """

    image: UInt8[Array, "*m b h w 3"]
    tokens: Int32[Array, "*m b t"]
