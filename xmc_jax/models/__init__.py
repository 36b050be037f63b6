"""The generator and the discriminator of the paper, as Flax modules of plain arrays.

No losses, no optimizers, no frozen networks.
"""
