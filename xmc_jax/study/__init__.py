"""Human studies: blinded pairs of images on a self-contained page, and the analysis of the ratings.

Metrics that a program computes belong in `metrics` and `evaluation`.
"""
