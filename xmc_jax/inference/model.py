"""A trained generator with its networks, from the folder of a run or of an exported model."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import UInt8

from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.errors import UserError
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.frozen.text_encoder import fingerprint
from xmc_jax.inference import exported
from xmc_jax.inference.arrays import read_arrays
from xmc_jax.inference.batches import check_request
from xmc_jax.inference.sampler import Sampler
from xmc_jax.parallel import sharding
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import read_config
from xmc_jax.run.folder import find_checkpoints
from xmc_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A generator with its text encoder; created by `load_networks`.

    Attributes:
      experiment: Networks and tokenizer.
      step: Training step of the weights.
      ema: Averaged parameters and statistics of the generator, on the devices.
      batch_size: Largest number of captions in one call of a device program.
    """

    experiment: Experiment
    step: int
    ema: PyTree
    batch_size: int

    def generate(
        self, captions: Sequence[str], *, seed: int = 0, num_images: int = 1
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Generates images of any number of captions with a few compiled programs.

        An image depends on its caption, the seed and its index: equal seeds give equal images.
        The verb `sample` generates the same images.

        Returns:
          RGB pixels, 0..255. The `num_images` images of each caption are consecutive.

        Raises:
          UserError: there are no captions, one is empty, or a number is out of range.
        """
        check_request(captions, seed, num_images)
        tokens = self.tokenizer(captions).repeat(num_images, axis=0)
        return self._sampler(self.ema, tokens, seed=seed)

    @property
    def networks(self) -> "TrainedModel":
        """Itself; `ProgramModel` builds them."""
        return self

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its captions."""
        return self.experiment.tokenizer

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self.experiment, self.batch_size)  # Cached: it keeps compiled programs.


def load_networks(
    folder: epath.PathLike,
    *,
    step: int | None = None,
    batch_size: int = 16,
    text_encoder: str | None = None,
) -> TrainedModel:
    """Loads a model with its networks; arguments as in `loading.load`.

    Raises:
      UserError: see `loading.load`.
    """
    folder = epath.Path(folder).expanduser()
    config = read_config(folder)
    if text_encoder is not None:
        with config.unlocked():
            config.text.encoder = text_encoder
    experiment = create_experiment(config, folder, training=False)
    step, ema = restore(folder, experiment, step)
    return TrainedModel(experiment, step, ema, batch_size)


def restore(
    folder: epath.PathLike, experiment: Experiment, step: int | None = None
) -> tuple[int, PyTree]:
    """Reads a generator's weights from the folder of a run or of an exported model.

    The networks of the experiment must be those of the config in the folder; `step` as in `load`.

    Returns:
      The training step, and averaged parameters and statistics on the devices.

    Raises:
      UserError: see `load`.
    """
    if not exported.is_exported(folder):
        with Checkpoints(find_checkpoints(folder, step), read_only=True) as checkpoints:
            return checkpoints.restore_ema(experiment.abstract_ema(), step)
    manifest = exported.read_manifest(folder)
    with exported.damage_named(folder):
        own_step, expected = manifest["step"], str(manifest["text_encoder"]["fingerprint"])
    if step not in (None, own_step):
        raise UserError(f"{folder} is an exported model of step {own_step}; it has no step {step}")
    projection = [exported.PROJECTION] if exported.PROJECTION in manifest["sha256"] else []
    for name in ("config.json", exported.VOCABULARY, *projection):
        exported.read_verified(folder, manifest, name)
    ema = unflatten_dict(read_arrays(folder, manifest, exported.WEIGHTS), sep="/")
    found = fingerprint(experiment.text_encoder)
    if found != expected:
        raise UserError(
            f"the text encoder {experiment.config.text.encoder!r} is not the one that the model in "
            f"{folder} was trained with (its fingerprint is {found[:12]}, not {expected[:12]}); "
            "install that one"
        )
    _check_fit(folder, ema, experiment)
    ema = jax.tree.map(lambda x: x.astype(np.float32), ema)
    return own_step, sharding.put(ema, sharding.replicated(experiment.mesh))


def _check_fit(folder: epath.PathLike, ema: PyTree, experiment: Experiment) -> None:
    """Refuses weights that do not fit the networks of the config."""
    expected, found = (
        {name: x.shape for name, x in flatten_dict(tree, sep="/").items()}
        for tree in (experiment.abstract_ema(), ema)
    )
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{folder}: {name} has the shape {found.get(name, 'absent')} in the weights and "
                f"{expected.get(name, 'absent')} by config.json; export the model again"
            )
