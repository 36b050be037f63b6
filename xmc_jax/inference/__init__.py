"""Trained models: loading, generating, exporting and inspecting them; nothing here trains."""
