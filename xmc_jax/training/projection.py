"""Fits the projection of the text, once, before the first step of a run."""

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from xmc_jax.data.records import Records, draw_caption
from xmc_jax.data.streams import choose_examples
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.frozen import text_projection, whitening
from xmc_jax.frozen.text_encoder import load_text_encoder
from xmc_jax.parallel import processes
from xmc_jax.run.folder import config_path, text_projection_path

_NUM_CAPTIONS = 1024  # For a covariance of a few hundred dimensions; 8 s on a CPU core.
_BATCH_SIZE = 64


def fit_projection(config: ConfigDict, workdir: epath.PathLike, source: Records) -> None:
    """Writes the projection of a run into its folder, unless the run has begun.

    A run that has begun, and so has a config, must have its projection too: its weights belong to
    it. One that a killed start left behind may be of another encoder, and is replaced.

    It depends on the text encoder and on `_NUM_CAPTIONS` captions of the training split, one an
    example, which the config's seed chooses. The first process calls it.

    Args:
      config: Of the run.
      workdir: Folder of the run.
      source: The training split.

    Raises:
      UserError: the projection is wider than the text, or cannot be written.
    """
    if config_path(workdir).exists():
        return
    encoder = load_text_encoder(config.text.encoder)
    text_projection.check_width(config.text.projection, encoder.width)
    indices = choose_examples(len(source), _NUM_CAPTIONS, config.seed)
    captions = [
        draw_caption(record, config.seed, index)[1]
        for record, index in zip(source.read(indices), indices, strict=True)
    ]
    processes.say(f"projecting text to {config.text.projection} dimensions")
    tokenizer = Tokenizer(encoder.vocabulary_file, config.text.num_tokens, encoder.lowercase)
    tokens, encode = tokenizer(captions), jax.jit(encoder.apply)
    parts = np.array_split(tokens, max(1, len(tokens) // _BATCH_SIZE))
    texts = [jax.device_get(encode(encoder.params, part)) for part in parts]
    text = [np.concatenate(x) for x in zip(*texts, strict=True)]
    path = text_projection_path(workdir)
    text_projection.write(path, whitening.fit(*text, config.text.projection))
