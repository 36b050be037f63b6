"""A stand-in for the gcloud CLI: it records its calls, and its workers are folders.

The environment variable `CLOUD` names a folder. Its file ``calls`` gets one JSON list per call.
``ssh`` runs its command in ``workers/N``, like the login shell of such a machine, and ``scp``
copies files there; without ``workers`` a call is only recorded. A file ``exists`` stands for a TPU.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["CLOUD"])


def main(arguments: list[str]) -> int:
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    verb = arguments[3]
    if verb == "create" and (CLOUD / "exists").exists():
        print("ERROR: ALREADY_EXISTS: Resource already exists", file=sys.stderr)
        return 1
    if verb == "describe":
        print("READY")
        return 0 if (CLOUD / "exists").exists() else 1
    if verb == "scp":
        source, destination = (a for a in arguments[4:] if not a.startswith("--"))
        for home in workers(arguments):
            shutil.copy(source, home / destination.partition(":")[2])
    if verb == "ssh":
        return ssh(option(arguments, "command"), workers(arguments))
    return 0


def ssh(command: str, homes: list[pathlib.Path]) -> int:
    """Runs the command on all workers at once; returns the first exit code that is not 0."""
    # Like gcloud and ssh: split at spaces and joined by spaces.
    command = " ".join(command.split(" "))
    processes = [
        subprocess.Popen(["bash", "-c", command], cwd=home, env=os.environ | {"HOME": str(home)})
        for home in homes
    ]
    return next(filter(None, [process.wait() for process in processes]), 0)


def workers(arguments: list[str]) -> list[pathlib.Path]:
    which = option(arguments, "worker")
    return sorted((CLOUD / "workers").glob("*" if which == "all" else which))


def option(arguments: list[str], name: str) -> str:
    return next(a.partition("=")[2] for a in arguments if a.startswith(f"--{name}="))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
