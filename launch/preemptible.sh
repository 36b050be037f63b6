#!/usr/bin/env bash
# Trains under a scheduler that restarts failed jobs: a Kubernetes Job, a SkyPilot managed job.
#
#   bash launch/preemptible.sh --config=… --workdir=gs://… [--config.field=value …]
#
# When SIGTERM stops training, training saves and exits with 0, and the scheduler would take it for
# finished. This script passes the signal on, waits for the save, and exits with 143. Without a
# signal it exits with the exit code of the training.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

stopped=
"${XMC_VENV:-$PWD/.venv}/bin/python" -m xmc_jax.train "$@" &
pid=$!
trap 'stopped=1; kill -TERM "$pid"' TERM INT
wait "$pid"
status=$?
# The signal interrupted `wait`; the training may still be running.
while kill -0 "$pid" 2>/dev/null; do
  wait "$pid"
  status=$?
done
if [[ $stopped ]]; then status=143; fi
exit "$status"
