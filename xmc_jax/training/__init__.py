"""A training run: its loop, data, previews, logs, faults and signals.

Flags stay in the verb `train`; the algorithm of a step is `train_step.py`.
"""
