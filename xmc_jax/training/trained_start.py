"""A trained start (`--init_from`): parameters of another model in place of random ones.

A run gives both players; an exported model, which has no discriminator, its averaged generator.
Optimizers and the count of steps begin anew.
"""

import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int32
from ml_collections import ConfigDict

from xmc_jax import files
from xmc_jax.errors import UserError
from xmc_jax.experiment import Experiment, create_experiment
from xmc_jax.inference import exported, hub
from xmc_jax.inference.model import restore
from xmc_jax.models.generator import Generator
from xmc_jax.models.layers import BATCH_STATS
from xmc_jax.parallel import processes, sharding
from xmc_jax.run.checkpoint import Checkpoints
from xmc_jax.run.config import read_config
from xmc_jax.run.folder import checkpoints_dir, config_path, text_projection_path
from xmc_jax.train_state import TrainState
from xmc_jax.training import growth
from xmc_jax.types import EncodedText, PyTree

_PLAYERS = ("generator", "discriminator")
# What the parameters of a player imply: running statistics, averages, power iterations.
_OF_PLAYERS = (*_PLAYERS, "generator_stats", "ema", "spectral")


class TrainedStart:
    """Another model, whose arrays a new run starts from where their names and shapes agree.

    Args:
      experiment: Of the new run.
      folder: Of the other run, or of an exported model; or its address, ``hf://USER/NAME``.
      is_partial: Whether to go on if not every array of the new run has its like there.
      fsdp: See `create_experiment`.

    Raises:
      UserError: the folder holds no model, or something does not fit and `is_partial` is not set;
        all that does not fit is named.
    """

    def __init__(
        self, experiment: Experiment, folder: epath.PathLike, *, is_partial: bool, fsdp: int
    ):
        self._folder = epath.Path(hub.local_folder(folder)).expanduser()
        if not config_path(self._folder).exists():
            raise UserError(f"--init_from={folder} is neither a run nor an exported model")
        config = read_config(self._folder)
        self._is_exported = exported.is_exported(self._folder)
        self._source = create_experiment(config, self._folder, training=False, fsdp=fsdp)
        here, there = _arrays(experiment.abstract_state()), self._abstract()
        # An exported model says nothing about the discriminator.
        here = {name: x for name, x in here.items() if _part(name) in map(_part, there)}
        self._fitting = {
            name for name, x in here.items() if name in there and there[name].shape == x.shape
        }
        self._has_same_text = not (text := _differences(experiment.config, config))
        unfit = text + _modules(here.keys() - self._fitting, here)
        if unfit and not is_partial:
            raise UserError(
                f"--init_from={folder} does not fit: {', '.join(unfit)}; --init_partial takes the "
                "rest, and draws these at random"
            )
        small, large = self._source.generator, experiment.generator
        self._grows = self._has_same_text and growth.can_grow(small, large)
        processes.say(
            f"starting from {folder}: {len(self._fitting)} of {len(here)} arrays fit"
            + (f"; not taken: {', '.join(unfit)}" if unfit else "")
            + ("; the generator grows and draws the same pictures" if self._grows else "")
        )

    def copy_projection(self, workdir: epath.PathLike) -> bool:
        """Gives the run the projection of the text that the weights know.

        Returns:
          Whether the run has a projection now: not if the texts of the models differ.
        """
        if not self._has_same_text:
            return False
        projection = text_projection_path(self._folder).read_bytes()
        files.write_whole(text_projection_path(workdir), projection)
        return True

    def apply(
        self, experiment: Experiment, state: TrainState, tokens: Int32[np.ndarray, "b t"]
    ) -> TrainState:
        """The state with the arrays of the other model that fit.

        Args:
          experiment: Of the new run.
          state: Drawn.
          tokens: Some captions, for a generator that grows.

        Raises:
          UserError: the arrays cannot be read.
        """
        here, there, text = _arrays(state), self._read(), None
        if self._grows:
            whole = sharding.replicated(experiment.mesh)
            encode = jax.jit(experiment.text_encoder.apply, out_shardings=whole)
            text = encode(experiment.frozen.text, sharding.put(tokens, whole))
        combine = jax.jit(
            functools.partial(self._combine, experiment.generator),
            out_shardings={name: x.sharding for name, x in here.items()},
        )
        return state.replace(**unflatten_dict(combine(here, there, text), sep="/"))

    def _combine(
        self,
        generator: Generator,
        here: Mapping[str, Array],
        there: Mapping[str, Array],
        text: EncodedText | None,
    ) -> dict[str, Array]:
        # Copies: parameters and averages may be one buffer, which could not be donated twice.
        arrays = here | {name: jnp.copy(there[name]) for name in self._fitting}
        if not self._grows:
            return arrays
        z = jax.random.normal(jax.random.key(0), (len(text[0]), generator.z_dim))
        large, small = (unflatten_dict(x, sep="/") for x in (arrays, there))
        now, small_now = (
            {"params": x["generator"], BATCH_STATS: x["generator_stats"]} for x in (large, small)
        )
        now = growth.grow(generator, now, small_now, z, text)
        large |= {"generator": now["params"], "generator_stats": now[BATCH_STATS]}
        large["ema"] = growth.grow(generator, large["ema"], small["ema"], z, text)
        return flatten_dict(large, sep="/")

    def _abstract(self) -> dict[str, jax.ShapeDtypeStruct]:
        if self._is_exported:
            return _arrays_of_averages(self._source.abstract_ema())
        return _arrays(self._source.abstract_state())

    def _read(self) -> dict[str, jax.Array]:
        if self._is_exported:
            _, ema = restore(self._folder, self._source)
            return _arrays_of_averages(ema)
        with Checkpoints(checkpoints_dir(self._folder), read_only=True) as checkpoints:
            return _arrays(checkpoints.restore(self._source.abstract_state()))


def _arrays(state: TrainState) -> dict[str, PyTree]:
    """All that training changes but for the optimizers, ``{"generator/block_0/…": array}``."""
    return flatten_dict({part: getattr(state, part) for part in _OF_PLAYERS}, sep="/")


def _arrays_of_averages(ema: PyTree) -> dict[str, PyTree]:
    """The same of an exported generator."""
    parts = {"generator": ema["params"], "generator_stats": ema[BATCH_STATS], "ema": ema}
    return flatten_dict(parts, sep="/")


def _part(name: str) -> str:
    return name.partition("/")[0]


def _differences(config: ConfigDict, source: ConfigDict) -> list[str]:
    """Fields without which equal shapes mean other things."""
    return [
        f"text.{field} ({source.text[field]!r} there, {config.text[field]!r} here)"
        for field in ("encoder", "projection")
        if config.text[field] != source.text[field]
    ]


def _modules(unfit: Iterable[str], arrays: Iterable[str]) -> list[str]:
    """The modules of arrays that do not fit; a larger module where none of its arrays fits."""
    unfit = {name for name in unfit if _part(name) in _PLAYERS}
    fitting = [name for name in arrays if name not in unfit]
    modules = set()
    for name in unfit:
        parts = name.split("/")
        prefixes = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        modules.add(
            next(p for p in prefixes if not any(f"{x}/".startswith(f"{p}/") for x in fitting))
        )
    return sorted(modules)
