"""Whether the discriminator knows what words mean: captions with one word swapped.

For a real image, the discriminator should score its caption above the same caption with, for
instance, another colour. Only the data set ``shapes`` has captions that can be swapped.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, Float32, UInt8

from xmc_jax import losses
from xmc_jax.attention import l2_normalize
from xmc_jax.data.overlap import evaluation_data
from xmc_jax.data.records import ExampleReader, Records, Selection
from xmc_jax.data.streams import choose_examples
from xmc_jax.experiment import Experiment
from xmc_jax.images import from_uint8
from xmc_jax.models.layers import SPECTRAL
from xmc_jax.parallel import processes
from xmc_jax.parallel.sharding import batch_sharding, make_whole, put, replicated
from xmc_jax.run.records import append_metrics
from xmc_jax.shapes.captions import make_example, parse_id
from xmc_jax.shapes.forms import parse_form
from xmc_jax.shapes.swaps import ATTRIBUTES, make_swaps
from xmc_jax.train_state import TrainState
from xmc_jax.types import PyTree

SCORES = ("sentence", "word")
# Words, sentences and word masks of n captions for each image of a batch.
EncodedCaptions = tuple[Float[Array, "b n t d"], Float[Array, "b n d"], Bool[Array, "b n t"]]

_NUM_IMAGES = 256
_BATCH = 32  # Images scored at once.


def make_probe(
    experiment: Experiment, source: Records, workdir: epath.PathLike
) -> "SwapProbe | None":
    """The probe of a run, or None if its captions cannot be swapped.

    These are captions without logical forms, and narratives, which are too long.
    """
    config = experiment.config
    if evaluation_data(config) != "shapes" or parse_form(config.data.form).layout == "narrative":
        return None
    return SwapProbe(experiment, source, workdir)


class SwapProbe:
    """Measures how often real images prefer their captions to swapped ones, at any step.

    Args:
      experiment: The networks.
      source: The split of the images; they depend on it and on ``config.eval.seed``.
      workdir: Folder of the run.
    """

    def __init__(self, experiment: Experiment, source: Records, workdir: epath.PathLike):
        self._experiment, self._workdir = experiment, workdir
        config, data = experiment.config, experiment.config.data
        seed, layout = config.eval.seed, parse_form(data.form).layout
        chosen = choose_examples(len(source), _NUM_IMAGES, seed)
        read = ExampleReader(source, config.model.resolution, data.crop, data.antialias, seed)
        self._images = read(Selection(chosen, chosen)).image
        # For each image and attribute, the rows of the true and the false caption in a table. Those
        # of attributes that no caption of the image states are not used.
        self._captions = np.zeros((len(chosen), len(ATTRIBUTES), 2), np.int64)
        self._stated = np.zeros((len(chosen), len(ATTRIBUTES)), bool)
        rows: dict[str, int] = {}
        for image, record in enumerate(source.read(chosen)):
            example = make_example(*parse_id(record["image/id"]), layout)
            for swap in make_swaps(example, layout, np.random.default_rng([seed, image])):
                column = ATTRIBUTES.index(swap.attribute)
                self._stated[image, column] = True
                texts = swap.true.text, swap.false.text
                self._captions[image, column] = [rows.setdefault(t, len(rows)) for t in texts]
        self._tokens = experiment.tokenizer(list(rows))
        # The last batch is filled up with other images. Texts are encoded in batches as large.
        self._batch_size = -(-_BATCH // experiment.mesh.size) * experiment.mesh.size
        whole, split = replicated(experiment.mesh), batch_sharding(experiment.mesh)
        self._score = jax.jit(
            make_score(experiment.discriminator),
            in_shardings=(whole, split, split),
            out_shardings=whole,
        )

    def measure(self, step: int, state: TrainState, writer: Any) -> None:
        """Writes the shares of a step to metrics.jsonl and TensorBoard, and prints them.

        All processes call it; the first one writes.

        Args:
          step: The step.
          state: State after the step; it is not changed.
          writer: See `tensorboard.open_writer`.

        Raises:
          UserError: metrics.jsonl cannot be written.
        """
        shares = share_preferred(self._scores(state), self._stated)
        if not processes.is_first():
            return
        values = {
            f"probe/{score}/{name}": share
            for score, of_score in shares.items()
            for name, share in of_score.items()
        }
        append_metrics(self._workdir, [{"kind": "probe", "step": step, **values}])
        writer.write_scalars(step, values)
        of_sentences, of_words = (shares[score] for score in SCORES)
        print(
            f"step {step}/{self._experiment.config.num_steps}  swapped words (sentence/word score):"
            + "".join(f"  {k} {of_sentences[k]:.2f}/{of_words[k]:.2f}" for k in of_sentences),
            flush=True,
        )

    def _scores(self, state: TrainState) -> Float32[np.ndarray, "scores n attributes 2"]:
        """Scores of every image against its true and false captions."""
        mesh = self._experiment.mesh
        variables = {"params": state.discriminator, SPECTRAL: state.spectral}
        variables, split = make_whole(variables, mesh), batch_sharding(mesh)
        count, scores = len(self._images), []
        for start in range(0, count, self._batch_size):
            batch = np.arange(start, start + self._batch_size) % count
            captions = self._captions[batch].reshape(len(batch), -1)
            texts = tuple(x[captions] for x in self._texts)
            scored = self._score(variables, *put((self._images[batch], texts), split))
            scores.append(np.asarray(scored))
        return np.concatenate(scores, axis=1)[:, :count].reshape(len(SCORES), *self._captions.shape)

    @functools.cached_property
    def _texts(self) -> tuple[np.ndarray, ...]:
        """All captions, encoded, on the host: the text encoder is frozen, so once is enough."""
        experiment, size = self._experiment, self._batch_size
        whole, split = replicated(experiment.mesh), batch_sharding(experiment.mesh)
        encode = jax.jit(
            experiment.text_encoder.apply, in_shardings=(whole, split), out_shardings=whole
        )
        parts = []
        for start in range(0, len(self._tokens), size):
            rows = np.arange(start, start + size) % len(self._tokens)
            encoded = encode(experiment.frozen.text, put(self._tokens[rows], split))
            parts.append(jax.tree.map(np.asarray, encoded))
        return tuple(np.concatenate(x)[: len(self._tokens)] for x in zip(*parts, strict=True))


def make_score(
    discriminator: nn.Module,
) -> Callable[[PyTree, UInt8[Array, "b h w 3"], EncodedCaptions], Float[Array, "scores b n"]]:
    """Builds ``score(variables, images, text) -> scores`` of each image against its n captions.

    The two scores are those of the contrastive terms: the cosine of image and sentence embedding,
    and `losses.word_scores`. The discriminator is not in training mode.
    """

    def score(
        variables: PyTree, images: UInt8[Array, "b h w 3"], text: EncodedCaptions
    ) -> Float[Array, "scores b n"]:
        words, sentences, mask = text
        b, n, _ = sentences.shape
        apply = functools.partial(discriminator.apply, variables, train=False)
        image = apply(from_uint8(images), sentences[:, 0])
        # XLA leaves out all layers of images here, because sentence embeddings do not need them.
        blank = jnp.zeros((b * n, *images.shape[1:]))
        named = apply(blank, sentences.reshape(b * n, -1)).sentence.reshape(b, n, -1)
        by_sentence = jnp.einsum("bc,bnc->bn", l2_normalize(image.embedding), l2_normalize(named))
        by_word = jax.vmap(lambda regions, *text: losses.word_scores(regions[None], *text)[0])
        return jnp.stack([by_sentence, by_word(image.regions, words, mask)])

    return score


def share_preferred(
    scores: Float[np.ndarray, "scores n attributes 2"], stated: Bool[np.ndarray, "n attributes"]
) -> Mapping[str, Mapping[str, float]]:
    """Shares of images that prefer the true caption, 0..1, by score and attribute.

    Args:
      scores: Of `SCORES`, for the true and the false caption of each of `ATTRIBUTES`.
      stated: Whether an image has these captions; attributes of no image are left out.
    """
    true, false = np.moveaxis(scores, -1, 0)
    prefers = np.where(true == false, 0.5, true > false)  # Equal scores are a guess.
    return {
        score: {
            name: float(prefers[i, stated[:, column], column].mean())
            for column, name in enumerate(ATTRIBUTES)
            if stated[:, column].any()
        }
        for i, score in enumerate(SCORES)
    }
