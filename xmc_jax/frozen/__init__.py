"""Pretrained networks that are never trained here, as pure functions and their weights.

Most come from keras-hub and keras.applications on the JAX backend.
"""
