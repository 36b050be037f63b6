"""Captioned pictures of the user's own."""
