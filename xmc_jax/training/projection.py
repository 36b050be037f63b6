"""Fits the projection of the text, once, before the first step of a run."""

import jax
import numpy as np
from etils import epath
from jaxtyping import Int32

from xmc_jax.data.records import Records, draw_caption
from xmc_jax.data.streams import choose_examples
from xmc_jax.experiment import Experiment
from xmc_jax.frozen import text_projection, whitening
from xmc_jax.frozen.text_encoder import TextEncoder
from xmc_jax.parallel import processes
from xmc_jax.run.checkpoint import complete_steps
from xmc_jax.run.folder import checkpoints_dir, config_path, text_projection_path

_NUM_CAPTIONS = 1024  # For a covariance of a few hundred dimensions; 5 s on a CPU core.
_BATCH_SIZE = 64


def fit_projection(experiment: Experiment, workdir: epath.PathLike, source: Records) -> None:
    """Writes the projection of a run into its folder, unless the run has begun.

    A run that has begun, and so has a config or a checkpoint, must have its projection too: its
    weights belong to it. One that a killed start left behind may be of another encoder, and is
    replaced.

    It depends on the text encoder and on `_NUM_CAPTIONS` captions of the training split, one an
    example, which the config's seed chooses. The first process calls it.

    Args:
      experiment: Of the run, with mere shapes of the projection.
      workdir: Folder of the run.
      source: The training split.

    Raises:
      UserError: the projection cannot be written.
    """
    if config_path(workdir).exists() or complete_steps(checkpoints_dir(workdir)):
        return
    config = experiment.config
    indices = choose_examples(len(source), _NUM_CAPTIONS, config.seed)
    captions = [
        draw_caption(record, config.seed, index)[1]
        for record, index in zip(source.read(indices), indices, strict=True)
    ]
    processes.say(f"projecting text to {config.text.projection} dimensions")
    tokens, rows = np.unique(experiment.tokenizer(captions), axis=0, return_inverse=True)
    encoder = text_projection.without_projection(experiment.text_encoder)
    text = [x[rows] for x in _encode(encoder, tokens)]
    path = text_projection_path(workdir)
    text_projection.write(path, whitening.fit(*text, config.text.projection))


def _encode(encoder: TextEncoder, tokens: Int32[np.ndarray, "n t"]) -> list[np.ndarray]:
    """`EncodedText` of n captions, without the columns that are padding in all of them."""
    longest = np.count_nonzero(tokens.any(axis=0))
    num_batches = -(-len(tokens) // _BATCH_SIZE)
    filled = np.resize(tokens[:, :longest], (num_batches, _BATCH_SIZE, longest))
    encode = jax.jit(encoder.apply)
    texts = [jax.device_get(encode(encoder.params, batch)) for batch in filled]
    return [np.concatenate(x)[: len(tokens)] for x in zip(*texts, strict=True)]
