"""What a training step costs on given devices: compiles the step and never runs it."""
