"""Keras and keras-hub without what they load and nothing here uses.

Import `keras` and `keras_hub` from here. Wherever TensorFlow is installed, keras-hub would load it
for its pipelines of tf.data, which takes seconds and half a gigabyte; Keras loads matplotlib for
galleries of images.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_TENSORFLOW = ("tensorflow", "tensorflow_text")


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """In this block packages seem not to be installed, unless they are loaded already."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None makes an import fail as if nothing were there.
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def without_tensorflow() -> contextlib.AbstractContextManager[None]:
    """In this block keras-hub takes TensorFlow for not installed."""
    return _without(*_TENSORFLOW)


with _without(*_TENSORFLOW, "matplotlib"):
    import keras as keras
    import keras_hub as keras_hub


def _give_vocabulary_first(cls: type) -> None:
    """Mends CLIP's tokenizer of keras-hub 0.32, which reads what only TensorFlow's part had set."""
    set_up = cls._set_vocabulary_and_merges_tokenizers

    def set_vocabulary(self: Any, vocabulary: dict[str, int], merges: list[str]) -> None:
        self.vocabulary, self.merges = vocabulary, merges
        set_up(self, vocabulary, merges)

    cls._set_vocabulary_and_merges_tokenizers = set_vocabulary


_give_vocabulary_first(keras_hub.tokenizers.CLIPTokenizer)
