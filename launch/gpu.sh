#!/usr/bin/env bash
# Trains on the NVIDIA GPUs of this machine: sets everything up, checks that JAX sees the GPUs, and
# starts training. If it is run again, training resumes from its last checkpoint.
#
#   bash launch/gpu.sh [-n] --config=configs/coco_256.py --workdir=runs/coco_256 [--config.x=y …]
#
# All arguments go to `python -m xmc_jax.train`; relative paths start at the checkout. With -n as
# first argument, the commands are printed, one per line, and none is run.
#
# Several machines: run the same command on each machine at the same time, with a workdir that all
# machines see, and with --coordinator_address=HOST:PORT (of machine 0) --num_processes=N (machines)
# --process_id=I (0 to N-1). On Slurm JAX finds these values itself: see launch/README.md.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/execute.sh
source "$root/launch/execute.sh"
python=${XMC_VENV:-$root/.venv}/bin/python
driver="CUDA 13 needs the NVIDIA driver 580 or newer"

case ${1:-} in
  -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
  -n)
    dry_run=1
    shift
    ;;
esac
(($#)) || fail "no arguments: use --config=configs/coco_256.py --workdir=runs/coco_256"

# Checked before the set-up, which takes minutes. A container may have a driver but no nvidia-smi.
if ((!dry_run)) && ! nvidia-smi -L >/dev/null 2>&1 && [[ ! -e /dev/nvidiactl ]]; then
  fail "no NVIDIA driver on this machine (nvidia-smi): install it ($driver), or train on the CPU" \
    "with bash launch/local.sh"
fi

execute cd "$root"
execute bash launch/setup.sh gpu
check=("$python" -c 'import jax; print("GPUs:", *jax.devices("cuda"))')
if ((dry_run)); then
  execute "${check[@]}"
elif answer=$("${check[@]}" 2>&1); then
  echo "$answer"
else
  fail "JAX sees no GPU; $driver (nvidia-smi prints the version). JAX says: ${answer##*$'\n'}"
fi
train=("$python" -m xmc_jax.train "$@")
if ((dry_run)); then
  execute "${train[@]}"
else
  # exec replaces this shell, so SIGTERM and Ctrl-C reach the training, which saves and exits.
  exec "${train[@]}"
fi
