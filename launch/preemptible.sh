#!/usr/bin/env bash
# Trains where somebody else starts again what failed: a Kubernetes Job, a SkyPilot managed job.
#
#   bash launch/preemptible.sh --config=… --workdir=gs://… [--config.field=value …]
#
# Training that SIGTERM stops has saved, and exits with 0; those who watch it would take it for
# finished. This script passes the signal on, waits for the save, and exits with 143 then. Without a
# signal its exit code is the training's.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

stopped=
"${XMC_VENV:-$PWD/.venv}/bin/python" -m xmc_jax.train "$@" &
pid=$!
trap 'stopped=1; kill -TERM "$pid"' TERM INT
wait "$pid"
status=$?
# The signal ended that `wait`, not yet the training.
while kill -0 "$pid" 2>/dev/null; do
  wait "$pid"
  status=$?
done
if [[ $stopped ]]; then status=143; fi
exit "$status"
