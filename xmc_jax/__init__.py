"""XMC-JAX: text-to-image generation by cross-modal contrastive learning (XMC-GAN) in JAX.

    import xmc_jax

    model = xmc_jax.load("runs/shapes_32")
    images = model.generate(["a red circle above a blue square"], seed=0)

Importing it is cheap: JAX and all the rest are loaded when they are needed.
"""

import os

# Before anything imports Keras, as TensorFlow's friends do.
os.environ["KERAS_BACKEND"] = "jax"


def load(folder, **options):
    """A trained model, ready to draw: see `trained.load`, which is imported when it is called."""
    from xmc_jax.inference import model

    return model.load(folder, **options)


def load_demo():
    """The model that comes with the package: see `trained.load_demo`."""
    from xmc_jax.inference import model

    return model.load_demo()
