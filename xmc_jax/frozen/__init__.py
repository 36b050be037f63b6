"""Pretrained networks that no update touches: keras-hub and keras.applications on JAX."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras  # noqa: E402

if keras.backend.backend() != "jax":
    raise ImportError(
        "keras was imported with another backend before xmc_jax.frozen; set KERAS_BACKEND=jax first"
    )
