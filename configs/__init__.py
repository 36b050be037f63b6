"""Experiments, one per file: values of fields, no logic."""
