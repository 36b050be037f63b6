"""TensorFlow, kept off the GPUs: it reads and tokenises, and their memory is JAX's.

Import ``tf`` from here, before anything else uses it.
"""

from pathlib import Path

import tensorflow as tf

# Asking TensorFlow for GPUs where there is no driver makes it print errors.
if Path("/proc/driver/nvidia").exists():
    tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
