"""Claims about speed and memory, one command each; results are in RESULTS.md."""
