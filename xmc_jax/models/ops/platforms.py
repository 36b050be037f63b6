"""Code for one platform only, chosen when a program is lowered."""

import functools
from collections.abc import Callable

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from xmc_jax.types import PyTree


def by_platform(default: Callable, **forms: Callable) -> Callable:
    """One function of arrays with a different implementation for each platform.

    `forms` are implementations by platform, ``cpu`` or ``cuda``. The result has its own gradient
    rule, so that no platform stores what only the gradient of another implementation needs.
    """

    @jax.custom_vjp
    def choose(*args: Array) -> PyTree:
        return jax.lax.platform_dependent(*args, default=default, **forms)

    def pull_back(form: Callable, g: PyTree, *args: Array) -> tuple[Array, ...]:
        return jax.vjp(form, *args)[1](g)

    def backward(args: tuple[Array, ...], g: PyTree) -> tuple[Array, ...]:
        gradients = {name: functools.partial(pull_back, form) for name, form in forms.items()}
        of_default = functools.partial(pull_back, default)
        return jax.lax.platform_dependent(g, *args, default=of_default, **gradients)

    choose.defvjp(lambda *args: (choose(*args), args), backward)
    return choose


def barrier_on_gpus(x: PyTree) -> PyTree:
    """Returns the same arrays. On GPUs XLA writes them to memory and fuses nothing across them."""
    return jax.lax.platform_dependent(x, cuda=jax.lax.optimization_barrier, default=lambda x: x)


def default_layout_on_gpus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the same array. On GPUs XLA stores it in row-major order."""

    def constrain(x: Array) -> Array:
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    return jax.lax.platform_dependent(x, cuda=constrain, default=lambda x: x)
