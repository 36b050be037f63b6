"""keras-hub without TensorFlow, which it needs for pipelines of tf.data alone.

Import `keras_hub` from here. Wherever TensorFlow is installed, keras-hub would load it, which takes
seconds and half a gigabyte.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_HIDDEN = ("tensorflow", "tensorflow_text")


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """In this block TensorFlow seems not to be installed, unless it is loaded already."""
    hidden = [name for name in _HIDDEN if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None makes an import fail as if nothing were there.
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with without_tensorflow():
    import keras_hub as keras_hub


def _give_vocabulary_first(cls: type) -> None:
    """Mends CLIP's tokenizer of keras-hub 0.32, which reads what only TensorFlow's part had set."""
    set_up = cls._set_vocabulary_and_merges_tokenizers

    def set_vocabulary(self: Any, vocabulary: dict[str, int], merges: list[str]) -> None:
        self.vocabulary, self.merges = vocabulary, merges
        set_up(self, vocabulary, merges)

    cls._set_vocabulary_and_merges_tokenizers = set_vocabulary


_give_vocabulary_first(keras_hub.tokenizers.CLIPTokenizer)
