"""What a generator is measured by."""
