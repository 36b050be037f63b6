"""A trained model by its folder, ready to draw: that of a run, or an exported one.

    model = xmc_jax.load("runs/shapes_32")
    images = model.generate(["a red circle above a blue square"], seed=0)

The verbs `sample`, `export` and `evaluate` load models here too.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from xmc_jax.errors import UserError
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.frozen.text_encoder import fingerprint
from xmc_jax.inference import exported
from xmc_jax.inference.sampler import Sampler
from xmc_jax.parallel import sharding, startup
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import read_config
from xmc_jax.run.folder import find_checkpoints
from xmc_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A generator with its text encoder; made by `load`.

    Attributes:
      experiment: Its networks and tokenizer.
      step: The training step it is of.
      ema: Averaged parameters and statistics of the generator, on the devices.
      batch_size: Captions a device program takes at most.
    """

    experiment: Experiment
    step: int
    ema: PyTree
    batch_size: int

    def generate(
        self, captions: Sequence[str], *, seed: int = 0, num_images: int = 1
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Draws captions, any number of them, with a few compiled programs.

        A picture depends on its caption, the seed and its place among the pictures: the same
        numbers as those of the verb `sample`.

        Args:
          captions: What to draw.
          seed: Chooses the noise: same seed, same pictures.
          num_images: Pictures of each caption; they follow each other.

        Returns:
          RGB pixels, 0..255.

        Raises:
          UserError: there is no caption, or one is empty.
        """
        if isinstance(captions, str):
            raise UserError("captions is one string; give a list of them, e.g. [caption]")
        if not len(captions):
            raise UserError("no captions; give at least one")
        tokens = self.experiment.tokenizer(captions).repeat(num_images, axis=0)
        return self._sampler(self.ema, tokens, seed=seed)

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self.experiment, self.batch_size)  # One for all calls: it keeps programs.


def load(
    folder: epath.PathLike,
    *,
    step: int | None = None,
    batch_size: int = 16,
    text_encoder: str | None = None,
) -> TrainedModel:
    """Loads a model from the folder of a run, or from one that `export` wrote.

    Args:
      folder: The folder, local or remote (``gs://…``).
      step: Which checkpoint of a run; the newest if None.
      batch_size: Captions a device program takes at most; changes speed and memory alone.
      text_encoder: Where the text encoder of the training is on this machine, if not under the
        name in the config; see `load_text_encoder`.

    Raises:
      UserError: there is no model or no such checkpoint in the folder, a file is damaged, or the
        text encoder is missing or another one than that of the training.
    """
    folder = epath.Path(folder).expanduser()
    config = read_config(folder)
    if text_encoder is not None:
        with config.unlocked():
            config.text.encoder = text_encoder
    startup.hide_missing_tpu()  # In a notebook nobody else has.
    experiment = create_experiment(config, training=False)
    step, ema = restore(folder, experiment, step)
    return TrainedModel(experiment, step, ema, batch_size)


def restore(
    folder: epath.PathLike, experiment: Experiment, step: int | None = None
) -> tuple[int, PyTree]:
    """Reads a generator from the folder of a run, or from one that `export` wrote.

    Args:
      folder: The folder.
      experiment: By the config in it, as far as networks go.
      step: Which checkpoint of a run; the newest if None.

    Returns:
      The step, and averaged parameters and statistics, on the devices.

    Raises:
      UserError: see `load`.
    """
    if not exported.is_exported(folder):
        with Checkpoints(find_checkpoints(folder, step), read_only=True) as checkpoints:
            return checkpoints.restore_ema(experiment.abstract_ema(), step)
    model = exported.read(folder)
    if step not in (None, model.step):
        raise UserError(
            f"{folder} is an exported model of step {model.step}; it has no step {step}"
        )
    _check_text_encoder(folder, model, experiment)
    _check_fit(folder, model.ema, experiment)
    ema = jax.tree.map(lambda x: x.astype(np.float32), model.ema)
    return model.step, sharding.put(ema, sharding.replicated(experiment.mesh))


def load_demo() -> TrainedModel:
    """Loads the model that comes with the package.

    Raises:
      UserError: it has not been made yet.
    """
    return load(exported.demo_folder())


def _check_text_encoder(
    folder: epath.PathLike, model: exported.ExportedModel, experiment: Experiment
) -> None:
    found = fingerprint(experiment.text_encoder)
    if found != model.text_encoder_fingerprint:
        raise UserError(
            f"the text encoder {experiment.config.text.encoder!r} here is another one than that "
            f"of the model in {folder} (fingerprint {found[:12]}, not "
            f"{model.text_encoder_fingerprint[:12]}); install the one it was trained with"
        )


def _check_fit(folder: epath.PathLike, ema: PyTree, experiment: Experiment) -> None:
    """Refuses weights of another network than that of the config."""
    here, there = (
        {name: x.shape for name, x in exported.flatten(tree).items()}
        for tree in (experiment.abstract_ema(), ema)
    )
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise UserError(
                f"{folder}: {name} is {there.get(name, 'absent')} in the weights and "
                f"{here.get(name, 'absent')} by config.json; export the model anew"
            )
