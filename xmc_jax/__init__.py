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


def load(folder, *, step=None, batch_size=16, text_encoder=None):
    """Loads a trained model, whose ``generate(captions, seed=0, num_images=1)`` gives pixels.

    Args:
      folder: The folder of a run or of an exported model, or ``hf://USER/NAME[@REVISION]``.
      step: Which checkpoint of a run; None for the newest.
      batch_size: Largest number of captions in one call of a device program.
      text_encoder: Folder of the model's text encoder, if it is elsewhere on this machine.

    Returns:
      The model, see `inference.loading.load`.

    Raises:
      UserError: the folder holds no such model, or a part of it is damaged or missing.
    """
    options = {"step": step, "batch_size": batch_size, "text_encoder": text_encoder}
    return _loading().load(folder, **options)


def load_demo(name="shapes"):
    """Loads a model that comes with the package: ``shapes``, ``scenes`` or ``emoji``."""
    return _loading().load_demo(name)


def _loading():
    from xmc_jax.inference import loading  # Loads JAX.

    return loading
