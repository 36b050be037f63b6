"""Embeddings of captions, computed once for each distinct caption.

Captions of a data set repeat, and of the shapes data most of them soon: a small model on a CPU
would spend a quarter of its time on the text encoder. The cache stands in front of the step, which
then takes embeddings instead of tokens.
"""

import collections
import os

import jax
import numpy as np
from jaxtyping import Int32

from xmc_jax.errors import UserError
from xmc_jax.types import Batch, EncodeText, PyTree

FIELD = "config.data.cached_captions"


class CaptionCache:
    """The most recently used captions with their embeddings, on the host.

    Each caption is encoded on its own: so its embedding is the same to the last bit in whatever
    order captions come, and a resumed run repeats the numbers of one that was never stopped. Those
    of an encoder that sees a whole batch differ by rounding.

    Args:
      encode: The text encoder.
      params: Its weights, on the devices.
      capacity: Largest number of captions to keep.
      num_tokens: Length of the rows of tokens.
      width: Length of the embeddings.

    Raises:
      UserError: so many captions would not fit the memory.
    """

    def __init__(
        self, encode: EncodeText, params: PyTree, *, capacity: int, num_tokens: int, width: int
    ):
        needed = 4 * capacity * (num_tokens + 1) * width
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > memory // 2:
            raise UserError(
                f"{FIELD}={capacity} would take {needed / 1e9:.1f} GB, more than half of the "
                f"memory; use at most {memory // 2 * capacity // needed}, or 0 to keep none"
            )
        self._encode = jax.jit(encode)
        # Of several processes, each has its own captions and uses a device of its own.
        self._params = jax.tree.map(lambda x: x.addressable_data(0), params)
        self._capacity = capacity
        self._known: collections.OrderedDict[bytes, tuple] = collections.OrderedDict()

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `EncodedText` in place of its tokens."""
        leading, num_tokens = batch.tokens.shape[:-1], batch.tokens.shape[-1]
        rows = [self._look_up(row) for row in batch.tokens.reshape(-1, num_tokens)]
        text = [np.reshape(x, (*leading, *x[0].shape)) for x in zip(*rows, strict=True)]
        return batch._replace(tokens=tuple(text))

    def _look_up(self, tokens: Int32[np.ndarray, " t"]) -> tuple[np.ndarray, ...]:
        key = tokens.tobytes()
        if key not in self._known:
            text = self._encode(self._params, tokens[None])
            self._known[key] = tuple(np.asarray(x)[0] for x in text)
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]
