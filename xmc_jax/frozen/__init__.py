"""Pretrained networks that are never trained here, as pure functions and their weights.

Most come from keras-hub and keras.applications, which must run on JAX.
"""

import keras

if keras.backend.backend() != "jax":
    raise ImportError(
        "keras was imported with another backend before xmc_jax; set KERAS_BACKEND=jax first"
    )
