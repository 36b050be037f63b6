"""What a run's results and speed depend on besides its config: versions and devices."""

import contextlib
import datetime
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import jax

PACKAGES = ("xmc-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "keras", "keras-hub")


def describe() -> dict[str, Any]:
    """Time (ISO 8601), versions and operating system here, and the devices of the whole run."""
    processes = f" of {n} processes" if (n := jax.process_count()) > 1 else ""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}{processes}",
        "platform": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **dict.fromkeys(PACKAGES, "not installed"),
            **installed_versions(PACKAGES),
        },
    }


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed, in their order."""
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
