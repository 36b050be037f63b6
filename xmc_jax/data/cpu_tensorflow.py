"""TensorFlow without GPUs: it only reads and tokenizes, and JAX needs their memory.

Import ``tf`` from here, before anything else imports it.
"""

from pathlib import Path

import tensorflow as tf

# Without a driver, TensorFlow prints errors when it is asked for GPUs.
if Path("/proc/driver/nvidia").exists():
    tf.config.set_visible_devices([], "GPU")
