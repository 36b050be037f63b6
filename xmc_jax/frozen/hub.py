"""keras-hub without TensorFlow, which it needs for pipelines of tf.data alone.

Import `keras_hub` from here. Wherever TensorFlow is installed, keras-hub would load it, which takes
seconds and half a gigabyte.
"""

import contextlib
import sys
from collections.abc import Iterator

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
