"""Makes image generation one StableHLO program that runs without this package.

``generate(weights, text_encoder, tokens, z) -> uint8 images``, for any number of captions, on CPUs,
NVIDIA GPUs and TPUs. Weights are arguments; `program.py` says where they lie.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, Int32, UInt8

from xmc_jax.experiment import Experiment
from xmc_jax.frozen.weights import is_weight
from xmc_jax.inference.program import arrange
from xmc_jax.inference.sampler import make_sample_step
from xmc_jax.types import PyTree


def name_text_params(params: PyTree) -> dict[str, np.ndarray]:
    """The text encoder's weights, named by their index among the leaves."""
    arrays = jax.device_get(jax.tree.leaves(params))
    return {_name(index): x for index, x in enumerate(arrays) if is_weight(x)}


def export_program(experiment: Experiment, weights: dict[str, np.ndarray]) -> bytes:
    """Serialises the program; `jax.export.deserialize` reads it.

    Args:
      experiment: Networks and text encoder.
      weights: Averaged weights of the generator in their storage type, see `export.to_storage`;
        the program takes them in these types and computes with them in float32.
    """
    config, text_params = experiment.config, experiment.frozen.text
    abstract, structure = jax.tree.flatten(jax.eval_shape(lambda: text_params))
    encode_text = experiment.text_encoder.apply
    sample = make_sample_step(generator=experiment.generator, encode_text=encode_text)

    def generate(
        weights: dict[str, Array],
        text_encoder: dict[str, Array],
        tokens: Int32[Array, "b t"],
        z: Float[Array, "b z"],
    ) -> UInt8[Array, "b h w 3"]:
        ema = unflatten_dict({k: x.astype(jnp.float32) for k, x in weights.items()}, sep="/")
        # Leaves that are not weights are random states of dropout, which is off.
        leaves = [
            text_encoder[_name(index)] if is_weight(x) else jnp.zeros(x.shape, x.dtype)
            for index, x in enumerate(abstract)
        ]
        return sample(ema, jax.tree.unflatten(structure, leaves), tokens, z)

    (count,) = jax.export.symbolic_shape("b")
    tokens = jax.ShapeDtypeStruct((count, config.text.num_tokens), jnp.int32)
    z = jax.ShapeDtypeStruct((count, config.model.z_dim), jnp.float32)
    program = jax.export.export(jax.jit(generate), platforms=("cpu", "cuda", "tpu"))
    # Without the paths of source files: they are those of the exporter's machine.
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        return bytes(program(weights, name_text_params(text_params), tokens, z).serialize())
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def find_arrays(
    text_params: Mapping[str, np.ndarray], sources: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, tuple[str, str, tuple[int, ...], bool]] | None:
    """Where `program.arrange` finds each weight of the text encoder in given files.

    Args:
      text_params: From `name_text_params`.
      sources: The arrays of each file, by its name.

    Returns:
      For each weight its file, its name there, its shape, and whether it is transposed there; None
      if one of them is in no file.
    """
    found = {}
    stored = [(file, key, y) for file, arrays in sources.items() for key, y in arrays.items()]
    for name, x in text_params.items():
        for file, key, y in stored:
            ways = [turned for turned in (False, True) if y.size == x.size]
            same = [w for w in ways if np.array_equal(arrange(y, x.shape, w), x)]
            if same:
                found[name] = file, key, x.shape, same[0]
                break
        else:
            return None
    return found


def _name(index: int) -> str:
    return f"text_encoder/{index:04d}"
