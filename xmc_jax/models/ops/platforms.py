"""What is said to one platform's compiler alone, chosen as a program is lowered."""

import functools
from collections.abc import Callable

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from xmc_jax.types import PyTree


def by_platform(default: Callable, **forms: Callable) -> Callable:
    """One function of arrays, given in the form that serves each platform best.

    It has a gradient rule of its own, so that no platform stores what another's gradient needs.

    Args:
      default: The form for all platforms that are not named.
      **forms: Forms by the platform's name, ``cpu`` or ``cuda``.
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


def hold_apart_on_gpus(x: PyTree) -> PyTree:
    """The same arrays, which GPUs' compiler writes before anything reads them."""
    return jax.lax.platform_dependent(x, cuda=jax.lax.optimization_barrier, default=lambda x: x)


def in_order_on_gpus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same array, which GPUs' compiler stores with its last axis contiguous."""

    def in_order(x: Array) -> Array:
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    return jax.lax.platform_dependent(x, cuda=in_order, default=lambda x: x)
