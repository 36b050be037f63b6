"""A small file system of its own, which can really be full."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """Mounts a tmpfs; skips the test if that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted here ({error})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
