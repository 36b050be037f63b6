"""Experiments, one file each: data without logic."""
