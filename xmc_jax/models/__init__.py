"""The networks of the paper as Flax Linen modules."""
