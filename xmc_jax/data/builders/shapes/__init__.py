"""Procedural captioned scenes of coloured shapes."""
