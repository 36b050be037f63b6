"""From archives and generators to batches."""
