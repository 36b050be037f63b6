"""Pretrained networks that no update touches: keras-hub and keras.applications on JAX."""

import keras

if keras.backend.backend() != "jax":
    raise ImportError(
        "keras was imported with another backend before xmc_jax; set KERAS_BACKEND=jax first"
    )
