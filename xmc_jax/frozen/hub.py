"""Keras and keras-hub: ``hub.keras``, ``hub.keras_hub``, loaded when they are first used.

They take seconds, and much that names a frozen network never calls one. Both come without what they
load and nothing here uses. Wherever TensorFlow is installed, keras-hub would load it for its
pipelines of tf.data, which takes seconds and half a gigabyte; Keras loads matplotlib for galleries
of images.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_TENSORFLOW = ("tensorflow", "tensorflow_text")


def __getattr__(name: str) -> ModuleType:
    """The module ``keras`` or ``keras_hub``."""
    if name not in ("keras", "keras_hub"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _load()[name]


@functools.cache
def _load() -> dict[str, ModuleType]:
    with _without(*_TENSORFLOW, "matplotlib"):
        # What this module is for.
        import keras
        import keras_hub

    if keras.backend.backend() != "jax":
        raise ImportError(
            "keras was imported with another backend before xmc_jax; set KERAS_BACKEND=jax first"
        )
    keras.config.disable_interactive_logging()  # Its bars of downloads overwrite other lines.
    _give_vocabulary_first(keras_hub.tokenizers.CLIPTokenizer)
    return {"keras": keras, "keras_hub": keras_hub}


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


def _give_vocabulary_first(cls: type) -> None:
    """Mends CLIP's tokenizer of keras-hub 0.32, which reads what only TensorFlow's part had set."""
    set_up = cls._set_vocabulary_and_merges_tokenizers

    def set_vocabulary(self: Any, vocabulary: dict[str, int], merges: list[str]) -> None:
        self.vocabulary, self.merges = vocabulary, merges
        set_up(self, vocabulary, merges)

    cls._set_vocabulary_and_merges_tokenizers = set_vocabulary
