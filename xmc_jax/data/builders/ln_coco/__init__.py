"""Localized Narratives of the photographs of COCO."""
