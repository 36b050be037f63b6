"""TFDS builders: a folder for each data set, and beside them the code that they share."""
