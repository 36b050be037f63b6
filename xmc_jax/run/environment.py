"""What decides a run's numbers and speed besides its config: versions and devices."""

import datetime
import platform
from importlib import metadata
from typing import Any

PACKAGES = ("xmc-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "keras", "keras-hub")


def describe() -> dict[str, Any]:
    """This process's: time (ISO 8601), versions, operating system, devices of the whole run."""
    import jax

    processes = f" of {n} processes" if (n := jax.process_count()) > 1 else ""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}{processes}",
        "platform": platform.platform(),
        "versions": installed_versions(),
    }


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a number."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
