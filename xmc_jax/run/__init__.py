"""What a run leaves on disk, and reading it back: config, records, checkpoints.

Nothing here computes: no networks, no steps.
"""
