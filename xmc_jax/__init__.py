"""XMC-JAX: text-to-image generation by cross-modal contrastive learning (XMC-GAN) in JAX.

    import xmc_jax

    model = xmc_jax.load("runs/one_shape_32")
    images = model.generate(["a large red star on a white background"], seed=0)

Importing this package is cheap: JAX and everything else is loaded when it is needed.
"""

import os

# Before anything imports Keras.
os.environ["KERAS_BACKEND"] = "jax"
# gs:// paths are read through gcsfs, also where TensorFlow, which nothing here loads, is installed.
os.environ.setdefault("EPATH_USE_TF", "false")


def load(folder, **options):
    """Loads a trained model that generates images: see `inference.loading.load`."""
    return _loading().load(folder, **options)


def load_demo(*name):
    """Loads a model that comes with the package: see `inference.loading.load_demo`."""
    return _loading().load_demo(*name)


def _loading():
    from xmc_jax.inference import loading  # Loads JAX.

    return loading
