"""Many devices and many hosts as one run: meshes, processes, start-up and stopping together."""
