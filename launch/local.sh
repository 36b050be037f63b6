#!/usr/bin/env bash
# The whole of it on this machine: sets everything up, trains the embedded default, draws captions
# of its own, evaluates, and writes a report. Run it again and it goes on where it stopped.
#
#   bash launch/local.sh [WORKDIR] [--config.field=value …]
#
# WORKDIR is runs/shapes_32 in this checkout if not given; what follows goes to the training.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workdir=$root/runs/shapes_32
if (($# > 0)) && [[ $1 != -* ]]; then
  workdir=$1
  shift
  # The place is meant from where the user stands, and the commands run from the checkout.
  [[ $workdir == /* || $workdir == *://* ]] || workdir=$PWD/$workdir
fi
cd "$root"

times=()
# Runs a command under a name and notes how long it took.
timed() {
  local name=$1 start=$SECONDS
  shift
  echo
  echo "== $name"
  "$@"
  local took=$((SECONDS - start))
  times+=("$(printf '%-9s %2d min %02d s' "$name" $((took / 60)) $((took % 60)))")
}

timed set-up bash launch/setup.sh
python=${XMC_VENV:-$root/.venv}/bin/python

timed train "$python" -m xmc_jax.train --config=configs/shapes_32.py --workdir="$workdir" "$@"
timed sample "$python" -m xmc_jax.sample --workdir="$workdir" \
  --caption="a large red circle on a white background" \
  --caption="a small blue square left of a green triangle" \
  --caption="a yellow star in the center" \
  --out="$workdir/captions"
timed evaluate "$python" -m xmc_jax.evaluate --workdir="$workdir"
timed report "$python" -m xmc_jax.report --workdir="$workdir"

cat <<DONE

Done. In $workdir:
  report.html       curves, samples and the table of metrics: open it in a browser
  captions/         pictures of three captions, all of them in grid.png; draw your own with
                      $python -m xmc_jax.sample --workdir=$workdir --caption="…" --out=…
  checkpoints/      what training goes on from, when this command is run again
  metrics.jsonl     every number
DONE
printf '  %s\n' "${times[@]}"
