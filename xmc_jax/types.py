"""The types that all layers share."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int32, UInt8

PyTree = Any  # Nested containers of arrays; JAX has no type for them.
Metrics = dict[str, Float[Array, ""]]

# Words, sentences and word masks of a batch of captions.
EncodedText = tuple[Float[Array, "b t d"], Float[Array, "b d"], Bool[Array, "b t"]]
# Frozen networks: ``(params, tokens) -> text`` and ``(params, images in [-1, 1]) -> features``.
EncodeText = Callable[[PyTree, Int32[Array, "b t"]], EncodedText]
ExtractFeatures = Callable[[PyTree, Float[Array, "b h w 3"]], Float[Array, "b n"]]

# A number as a function of the training step, an int32 scalar.
Schedule = Callable[[Int32[Array, ""]], Float[Array, ""]]


class Batch(NamedTuple):
    """A batch of examples in the form in which it is sent to the devices.

    Training batches have a leading axis of micro-batches, ``d_steps`` of them per step.

    Attributes:
      image: RGB pixels, 0..255.
      tokens: WordPiece ids, ``[CLS] … [SEP]``, padded with 0 (``[PAD]``) to the fixed length ``t``;
        or the `EncodedText` of a `CaptionCache`.
    """

    image: UInt8[Array, "*m b h w 3"]
    tokens: Int32[Array, "*m b t"] | EncodedText
