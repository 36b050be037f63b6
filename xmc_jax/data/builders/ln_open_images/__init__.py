"""Localized Narratives of the photographs of Open Images."""
