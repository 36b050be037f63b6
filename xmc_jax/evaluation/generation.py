"""One picture a prompt, kept on disk until the evaluation is over."""

import hashlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from xmc_jax.console import Progress
from xmc_jax.evaluation.image_sets import Pictures, Pixels, ProcessShards, fingerprint, make_shards
from xmc_jax.evaluation.inputs import Prompt
from xmc_jax.evaluation.resume import ResumableRows, check_space
from xmc_jax.experiment import Experiment
from xmc_jax.inference.sampler import Sampler
from xmc_jax.parallel import processes
from xmc_jax.parallel.sharding import make_whole
from xmc_jax.types import PyTree


def fingerprint_weights(ema: PyTree, mesh: Mesh) -> str:
    """sha256 of a generator's arrays, wherever they were read from; all processes must call it."""
    weights = hashlib.sha256()
    for leaf in jax.tree.leaves(make_whole(ema, mesh)):
        weights.update(np.ascontiguousarray(leaf).tobytes())
    return weights.hexdigest()


def describe_drawing(experiment: Experiment, generator: str, prompts: Sequence[Prompt]) -> str:
    """Fingerprint of all that drawn pictures follow from: weights, prompts, noise, networks.

    Args:
      experiment: What draws.
      generator: See `fingerprint_weights`.
      prompts: What is drawn.
    """
    captions = hashlib.sha256()
    for prompt in prompts:
        captions.update(prompt.tokens.tobytes())
    config = experiment.config
    networks = [sorted(config[name].to_dict().items()) for name in ("model", "text")]
    return fingerprint(generator, captions.hexdigest(), config.eval.seed, networks)


class Drawer:
    """Draws prompts in batches, with progress; what was drawn before a kill is not drawn again.

    Args:
      experiment: What to draw with.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._shares = make_shards(experiment.config.eval.batch_size)
        self._sampler = Sampler(experiment, self._shares.batch_size)

    def __call__(
        self, ema: PyTree, prompts: Sequence[Prompt], *, folder: epath.Path, identity: str
    ) -> Pictures:
        """Draws what is missing in a folder; all processes must call it.

        Args:
          ema: The generator's averages, as training has them.
          prompts: All of them.
          folder: Where pictures wait for the metrics.
          identity: See `describe_drawing`.

        Returns:
          The pictures, which live as long as the folder does.

        Raises:
          UserError: the disk does not hold them.
        """
        spill, shares, count = ResumableRows(folder, "drawn"), self._shares, len(prompts)
        done, size = spill.num_done(), shares.batch_size
        side = self._experiment.config.model.resolution
        missing = max(count - done * size, 0) * side * side * 3
        check_space(folder, missing // shares.process_count)
        if done:
            processes.say(f"{min(done * size, count)} of {count} pictures were drawn before")
        progress = Progress(count, name="drawing", unit="images", silent=not processes.is_first())
        for index, own in enumerate(shares.ranges(count)):
            if index < done:
                continue
            start = index * size
            tokens = np.stack([prompt.tokens for prompt in prompts[start : start + size]])
            drawn = self._sampler(
                ema, tokens, seed=self._experiment.config.eval.seed, first_index=start
            )
            spill.write(index, drawn[own.start - start : own.stop - start])
            progress.tell(min(start + size, count), num_before=min(done * size, count))
        return _pictures_of(spill, count, identity, shares)


def _pictures_of(
    spill: ResumableRows, count: int, identity: str, shares: ProcessShards
) -> Pictures:
    def open_batches() -> Iterator[Pixels]:
        for index in range(len(shares.ranges(count))):
            yield spill.read(index)

    return Pictures("drawn", count, identity, shares, open_batches)
