"""What a run's results and speed depend on besides its config: versions and devices."""

import datetime
import platform
from typing import Any

import jax

from xmc_jax.run.versions import installed_versions

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
