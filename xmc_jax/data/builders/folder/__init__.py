"""The user's own captioned images."""
