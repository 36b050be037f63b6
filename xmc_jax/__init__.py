"""XMC-JAX: text-to-image generation by cross-modal contrastive learning (XMC-GAN) in JAX."""
