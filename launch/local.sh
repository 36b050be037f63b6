#!/usr/bin/env bash
# Runs everything on this machine: sets the environment up (what running needs; `launch/test.sh`
# adds what tests need), trains the default model, generates
# images from three captions, evaluates, and writes a report. If it is run again, training resumes.
#
#   bash launch/local.sh [WORKDIR] [--config.field=value …]
#
# WORKDIR is runs/one_shape_32 in this checkout by default; all other arguments go to the training.
set -euo pipefail

case ${1:-} in
  -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workdir=$root/runs/one_shape_32
if (($# > 0)) && [[ $1 != -* ]]; then
  workdir=$1
  shift
  # A relative WORKDIR starts at the user's directory, but the commands run in the checkout.
  [[ $workdir == /* || $workdir == *://* ]] || workdir=$PWD/$workdir
fi
cd "$root"

# Training saves and ends well at Ctrl-C: then nothing else should begin.
trap 'exit 130' INT

times=()
# Runs a command under a name and records how long it took.
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

timed train "$python" -m xmc_jax.train --config=configs/one_shape_32.py --workdir="$workdir" "$@"
timed sample "$python" -m xmc_jax.sample --workdir="$workdir" \
  --caption="a large red circle on a white background" \
  --caption="a small blue square on black" \
  --caption="a large yellow triangle in the top left corner" \
  --out="$workdir/captions"
timed evaluate "$python" -m xmc_jax.evaluate --workdir="$workdir"
timed report "$python" -m xmc_jax.report --workdir="$workdir"

cat <<DONE

Done. In $workdir:
  report.html       curves, samples and the table of metrics: open it in a browser
  captions/         images of three captions, all of them in grid.png; for your own captions run
                      $python -m xmc_jax.sample --workdir=$workdir --caption="…" --out=…
  checkpoints/      training resumes from here when this command is run again
  metrics.jsonl     every number
DONE
printf '  %s\n' "${times[@]}"
