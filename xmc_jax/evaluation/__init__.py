"""Evaluation of a generator: from prompts, real and generated images to `MetricRecord` objects.

The metrics themselves are in `families`. No flags here, and nothing about a run's training.
"""
