"""Evaluation of a generator: from prompts, real and generated images to `MetricRecord` objects.

The metrics are in `families`. No flags, no training, and no pure arithmetic (`metrics`) here.
"""
