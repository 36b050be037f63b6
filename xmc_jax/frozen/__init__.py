"""Pretrained networks that no update touches: keras-hub and keras.applications on JAX."""
