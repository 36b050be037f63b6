"""One module for each family of metrics; `evaluation.selection` says what a family must have.

What several families share lives in `evaluation`; pure arithmetic lives in `xmc_jax.metrics`.
"""
