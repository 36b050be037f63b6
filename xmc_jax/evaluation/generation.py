"""Generates an image for each prompt; the images stay on disk until the evaluation is over."""

import hashlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from xmc_jax import files
from xmc_jax.evaluation.image_sets import ImageSet, Pixels, fingerprint, make_progress, make_shards
from xmc_jax.evaluation.inputs import Prompts
from xmc_jax.evaluation.resume import ResumableRows
from xmc_jax.experiment import Experiment
from xmc_jax.inference.sampler import Sampler
from xmc_jax.parallel import processes
from xmc_jax.parallel.sharding import make_whole
from xmc_jax.types import PyTree


def fingerprint_weights(ema: PyTree, mesh: Mesh) -> str:
    """sha256 of a generator's arrays, however they are sharded; all processes must call it."""
    weights = hashlib.sha256()
    for leaf in jax.tree.leaves(make_whole(ema, mesh)):
        weights.update(np.ascontiguousarray(leaf).tobytes())
    return weights.hexdigest()


def fingerprint_generation(config: ConfigDict, generator: str, prompts: Prompts) -> str:
    """sha256 of everything that determines the generated images: weights, prompts, noise, networks.

    `generator` is the result of `fingerprint_weights`.
    """
    captions = hashlib.sha256()
    for prompt in prompts:
        captions.update(prompt.tokens.tobytes())
    networks = [sorted(config[name].to_dict().items()) for name in ("model", "text")]
    return fingerprint(generator, captions.hexdigest(), config.eval.seed, networks)


class ImageGenerator:
    """Generates the images of prompts in batches, with progress; resumes after a kill."""

    def __init__(self, experiment: Experiment):
        self._config = experiment.config
        self._shards = make_shards(experiment.config.eval.batch_size)
        self._sampler = Sampler(experiment, self._shards.batch_size)

    def __call__(
        self,
        ema: PyTree,
        prompts: Prompts,
        *,
        folder: epath.Path,
        identity: str,
        name: str = "generated",
    ) -> ImageSet:
        """Generates the images that a folder lacks; all processes must call it.

        Args:
          ema: The generator's averages, as training has them.
          prompts: All prompts.
          folder: Where the images are kept; they can be read as long as it exists.
          identity: From `fingerprint_generation`.
          name: Name of the set and of its files; different for each set in a folder.

        Raises:
          UserError: the disk has no room for the images.
        """
        shards, count = self._shards, len(prompts)
        ranges, size, seed = shards.ranges(count), shards.batch_size, self._config.eval.seed
        # A file holds a batch: those of a run with another size of batches are not ours.
        rows = ResumableRows(folder, f"{name}_by_{size}")
        done = rows.num_done()
        num_before = min(done * size, count)
        num_bytes = (count - num_before) * self._config.model.resolution**2 * 3
        files.check_space(
            folder,
            num_bytes // shards.process_count,
            task="the evaluation",
            mend=", or lower config.eval.num_examples",
        )
        if done:
            processes.say(f"{num_before} of {count} images were generated before")
        progress = make_progress(count, name="generating", unit="images")
        for index, own in enumerate(ranges[done:], start=done):
            start = index * size
            tokens = np.stack([prompt.tokens for prompt in prompts[start : start + size]])
            pixels = self._sampler(ema, tokens, seed=seed, first_index=start)
            rows.write(index, pixels[own.start - start : own.stop - start])
            progress.tell(min(start + size, count), num_before=num_before)

        def open_batches() -> Iterator[Pixels]:
            for index in range(len(ranges)):
                yield rows.read(index)

        return ImageSet(name, count, identity, shards, open_batches)
