"""Metrics as pure arithmetic on NumPy arrays: no networks, no files of runs, no flags."""
