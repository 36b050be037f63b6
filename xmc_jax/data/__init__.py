"""From archives to batches: building, opening and reading data sets.

No networks and no steps: batches leave here as NumPy arrays.
"""
