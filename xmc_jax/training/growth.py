"""Growth: a generator of twice the resolution starts from the pictures of a smaller one.

The blocks that both have are the smaller one's. What follows them there, a normalisation and the
convolution to RGB, becomes the first half of the larger one's last block: after the 2x upsampling,
three of its channels hold the smaller one's picture before the tanh, and three its negative, so
that two ReLUs pass both signs: ``x = relu(x) - relu(-x)``. The rest of the network passes these six
on, and weighs its other channels, which are random, with zero at first. Pictures differ from the
smaller one's enlarged ones only where the convolution, which now sees pixels half as large, does.
"""

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from xmc_jax.models.generator import CHANNEL_MULTIPLIERS, Generator
from xmc_jax.models.layers import BATCH_STATS, EPSILON, MOMENTUM
from xmc_jax.types import EncodedText, PyTree

# The channels with the picture, with its negative, and both.
_PICTURE, _NEGATIVE, _BOTH = slice(3), slice(3, 6), slice(6)
_SIGNED = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)  # relu(x) - relu(-x).


def can_grow(small: Generator, large: Generator) -> bool:
    """Whether `large` is `small` with one block more, wide enough for a picture."""
    few, many = CHANNEL_MULTIPLIERS[small.resolution], CHANNEL_MULTIPLIERS[large.resolution]
    is_same_otherwise = small.clone(resolution=large.resolution) == large
    return is_same_otherwise and many[:-1] == few and many[-1] * large.width >= 6


def grow(
    generator: Generator,
    variables: PyTree,
    small: PyTree,
    z: Float[Array, "b z"],
    text: EncodedText,
) -> PyTree:
    """Gives the last layers of a generator the values that pass on the pictures of a smaller one.

    Args:
      generator: The larger one; see `can_grow`.
      variables: Its parameters and running statistics: random, or the smaller one's where shared.
      small: Those of the smaller one.
      z: Noise, and ...
      text: ... captions, for the statistics of the new layers.
    """
    last = f"block_{len(CHANNEL_MULTIPLIERS[generator.resolution]) - 1}"
    params = flatten_dict(variables["params"], sep="/")
    stats = flatten_dict(variables[BATCH_STATS], sep="/")
    for values, of_small in ((params, small["params"]), (stats, small[BATCH_STATS])):
        final_norm = flatten_dict(of_small["final_norm"], sep="/")
        values |= {f"{last}/norm_1/{name}": x for name, x in final_norm.items()}
    # The shortcut adds maps that have grown in training, so the convolution begins as large: the
    # next normalisation hides it, but the shortcut's first updates would drown a small picture.
    mean, var = _mean_and_var(stats, f"{last}/norm_1/")
    size = jnp.sqrt(jnp.mean(mean**2 + var))
    params = _show_picture(params, small["params"]["to_rgb"], last, size)
    new_norms = f"{last}/norm_2/", "final_norm/"
    stats |= _batch_statistics(generator, params, stats, new_norms, z, text)
    # What the two normalisations and the size have done to the picture, to_rgb undoes.
    (mean, var), (next_mean, next_var) = (
        (x[_PICTURE] for x in _mean_and_var(stats, norm)) for norm in new_norms
    )
    std, next_std = jnp.sqrt(var + EPSILON) / size, jnp.sqrt(next_var + EPSILON)
    kernel = jnp.zeros_like(params["to_rgb/kernel"])
    params["to_rgb/kernel"] = kernel.at[1, 1, _BOTH].set(_SIGNED * (std * next_std)[None])
    params["to_rgb/bias"] = mean + std * next_mean
    return {"params": unflatten_dict(params, sep="/"), BATCH_STATS: unflatten_dict(stats, sep="/")}


def _show_picture(
    params: dict[str, Array], to_rgb: dict[str, Array], last: str, size: Float[Array, ""]
) -> dict[str, Array]:
    """Parameters by which the last block makes a picture, in some size, and passes it on."""
    params = dict(params)
    for field, x in to_rgb.items():
        name = f"{last}/conv_1/{field}"
        params[name] = params[name].at[..., _PICTURE].set(x).at[..., _NEGATIVE].set(-x)
    others = tuple(f"{last}/{name}/" for name in ("norm_2", "conv_2", "shortcut"))
    for name, x in params.items():
        if name.startswith((*others, "final_norm/")):
            params[name] = x.at[..., _BOTH].set(0.0)
    kernel = f"{last}/conv_2/kernel"
    passed_on = np.concatenate([_SIGNED, -_SIGNED], axis=1)
    params[kernel] = size * params[kernel].at[1, 1, _BOTH, _BOTH].set(passed_on)
    return params


def _mean_and_var(
    stats: dict[str, Array], norm: str
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    return tuple(stats[f"{norm}batch_norm/{name}"] for name in ("mean", "var"))


def _batch_statistics(
    generator: Generator,
    params: dict[str, Array],
    stats: dict[str, Array],
    norms: tuple[str, ...],
    z: Float[Array, "b z"],
    text: EncodedText,
) -> dict[str, Array]:
    """The statistics of some normalisations, by the beginnings of their names, in one batch."""
    variables = {
        "params": unflatten_dict(params, sep="/"),
        BATCH_STATS: unflatten_dict(stats, sep="/"),
    }
    together = generator.clone(bn_group_size=0)
    _, updated = together.apply(variables, z, *text, train=True, mutable=[BATCH_STATS])
    return {
        name: (x - MOMENTUM * stats[name]) / (1.0 - MOMENTUM)
        for name, x in flatten_dict(updated[BATCH_STATS], sep="/").items()
        if name.startswith(norms)
    }
