"""The generator and the discriminator of the paper, as Flax modules of plain arrays.

With what stands between them and a training step: changes of images, rematerialisation.
No losses, no optimizers, no frozen networks.
"""
