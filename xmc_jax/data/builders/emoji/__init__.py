"""Emoji with their names."""
