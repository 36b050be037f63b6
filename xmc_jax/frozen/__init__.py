"""Pretrained networks that no update touches."""
