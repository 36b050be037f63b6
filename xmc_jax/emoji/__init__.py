"""The judge of emoji: whether an image shows what its caption says, and how it is trained.

The data set itself is built in `data/builders/emoji`; metrics are in `evaluation`.
"""
