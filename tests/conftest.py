"""Eight fake devices, checked shapes, and no silent broadcasting, for every test."""

import os

# Before the first import of jax, keras or tensorflow. Tests compile much and run little: code that
# is not optimised halves their time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"

from jaxtyping import install_import_hook  # noqa: E402

# Shapes in signatures become assertions, checked on every call.
install_import_hook("xmc_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng():
    """A random number generator with a fixed seed."""
    import numpy as np

    return np.random.default_rng(0)
