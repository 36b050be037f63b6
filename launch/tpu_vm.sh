#!/usr/bin/env bash
# Trains on all workers of a slice of Cloud TPU VMs. See `bash launch/tpu_vm.sh --help`.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/execute.sh
source "$root/launch/execute.sh"

usage() {
  cat <<'HELP'
bash launch/tpu_vm.sh VERB [FLAGS] [-- ARGUMENTS OF THE TRAINING]

Trains on all workers of a slice of Cloud TPU VMs, with the gcloud CLI.

  create   creates the slice
  setup    copies the git HEAD of this checkout to every worker and installs it there
  run      starts the training on every worker in the background; resumes from a checkpoint
  logs     follows the log of worker 0 until the training ends
  stop     makes the training save and exit (SIGTERM), and waits for it
  delete   deletes the slice

A complete session:

  export TPU_NAME=xmc ZONE=us-central2-b
  bash launch/tpu_vm.sh create --accelerator=v4-32 --spot
  bash launch/tpu_vm.sh setup
  bash launch/tpu_vm.sh run -- --config=configs/coco_256.py --workdir=gs://BUCKET/coco_256 \
      --data_dir=gs://BUCKET/tensorflow_datasets
  bash launch/tpu_vm.sh logs
  bash launch/tpu_vm.sh stop
  bash launch/tpu_vm.sh delete

After a preemption: delete, create, setup, and run with the same arguments.

Flags, and the environment variables that replace them:

  --name=NAME          every verb: name of the slice (TPU_NAME)
  --zone=ZONE          every verb: its zone (ZONE; default: gcloud's setting)
  --project=PROJECT    every verb: its project (PROJECT_ID; default: gcloud's setting)
  --accelerator=TYPE   create: v4-32, v5litepod-16, v5p-32, v6e-8, …, or a topology as for
                       xmc_jax.plan: v4:2x2x4, v5e:4x4 (ACCELERATOR_TYPE)
  --runtime=VERSION    create: software version of the VMs (RUNTIME_VERSION; default: the one for
                       the type)
  --spot               create: cheaper, but may be preempted at any time
  --queued             create: waits in the queue for capacity; delete: deletes a queued slice
  --worker=N|all       logs: of this worker, or of all
  --yes                delete: without asking
  -n                   prints the commands, one per line, and runs none
HELP
}

verb='' name=${TPU_NAME:-} zone=${ZONE:-} project=${PROJECT_ID:-}
accelerator=${ACCELERATOR_TYPE:-} runtime=${RUNTIME_VERSION:-} worker=0
spot=0 queued=0 yes=0
example='use run -- --config=configs/coco_256.py --workdir=gs://BUCKET/RUN'
given='' # Flags on the command line, for the check that the verb takes them.

# Reads the flags and the verb, up to --.
parse() {
  while (($#)) && [[ $1 != -- ]]; do
    case $1 in
      -h | --help) usage && exit ;;
      -n) dry_run=1 ;;
      --spot | --queued | --yes)
        given+=" $1"
        printf -v "${1#--}" 1
        ;;
      --name | --zone | --project | --accelerator | --runtime | --worker)
        [[ $# -gt 1 && ${2:0:1} != - ]] || fail "$1 has no value: write $1=VALUE"
        set_value "$1" "$2"
        shift
        ;;
      --name=* | --zone=* | --project=* | --accelerator=* | --runtime=* | --worker=*)
        set_value "${1%%=*}" "${1#*=}"
        ;;
      -*) fail "no flag ${1%%=*}; see --help. Arguments of the training follow after --" ;;
      *)
        [[ -z $verb ]] || fail "unexpected argument '$1'; flags are written --name=value"
        verb=$1
        ;;
    esac
    shift
  done
}

set_value() {
  [[ -n $2 ]] || fail "$1 has no value: write $1=VALUE"
  given+=" $1"
  printf -v "${1#--}" '%s' "$2"
}

# Refuses flags that do not fit the verb.
check_flags() {
  local flag takes
  case $verb in
    create) takes='--accelerator --runtime --spot --queued' ;;
    run) takes=--accelerator ;;
    logs) takes=--worker ;;
    delete) takes='--queued --yes' ;;
    setup | stop) takes='' ;;
    '') fail "no verb; there are create, setup, run, logs, stop, delete (--help explains them)" ;;
    *) fail "no verb '$verb'; there are create, setup, run, logs, stop, delete" ;;
  esac
  for flag in $given; do
    [[ " --name --zone --project $takes " == *" $flag "* ]] || fail "$verb takes no $flag"
  done
  [[ -n $name ]] || fail "--name is missing: use --name=NAME, or export TPU_NAME=NAME"
  [[ $worker == all || $worker != *[!0-9]* ]] || fail "--worker=$worker: use a number, or all"
  if ((!dry_run)) && ! command -v gcloud >/dev/null; then
    fail "no gcloud on the PATH: install the Google Cloud CLI (https://cloud.google.com/sdk)"
  fi
}

# gcloud_tpus GROUP VERB …: runs gcloud with the zone and the project.
gcloud_tpus() {
  local group=$1 action=$2
  shift 2
  if [[ -n $project ]]; then set -- --project="$project" "$@"; fi
  if [[ -n $zone ]]; then set -- --zone="$zone" "$@"; fi
  execute gcloud compute tpus "$group" "$action" "$@"
}

# on_workers WHICH COMMAND: runs a command line in the shell of one worker or of all.
on_workers() {
  local status=0
  gcloud_tpus tpu-vm ssh "$name" --worker="$1" --command="$2" || status=$?
  ((status != 127)) || fail "a worker has no checkout: run setup first"
  ((status == 0)) || exit "$status"
}

# Replaces a topology by the type of that size; keeps v4:AxBxC, which gcloud takes as it is.
check_accelerator() {
  local flat='^(v5e|v6e):([0-9]+)x([0-9]+)$' cube='^v5p:([0-9]+)x([0-9]+)x([0-9]+)$'
  if [[ $accelerator =~ $flat ]]; then
    accelerator=${BASH_REMATCH[1]/v5e/v5litepod}-$((BASH_REMATCH[2] * BASH_REMATCH[3]))
  elif [[ $accelerator =~ $cube ]]; then
    # The number counts two cores per chip; gcloud chooses the topology.
    fail "--accelerator=$accelerator: gcloud takes v5p by its size, use" \
      "--accelerator=v5p-$((2 * BASH_REMATCH[1] * BASH_REMATCH[2] * BASH_REMATCH[3]))"
  fi
  [[ $accelerator =~ ^v[0-9]+[a-z]*-[0-9]+$ || $accelerator =~ ^v4:[0-9]+x[0-9]+x[0-9]+$ ]] ||
    fail "--accelerator=$accelerator is not a TPU type: use e.g. v4-32, v4:2x2x4, v5litepod-16," \
      "v5e:4x4, v5p-32 or v6e-8"
}

single_host() {
  case $accelerator in
    v[234]-8 | v4:2x2x1 | v5p-8 | v5litepod-[148] | v6e-[148]) ;;
    *) false ;;
  esac
}

default_runtime() {
  case $accelerator in
    v[234][-:]*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail "no runtime is known for $accelerator: use --runtime=VERSION" ;;
  esac
}

create() {
  [[ -n $accelerator ]] || fail "--accelerator is missing: use e.g. --accelerator=v4-32"
  check_accelerator
  [[ -n $runtime ]] || runtime=$(default_runtime)
  case $accelerator in
    *:*) set -- --type="${accelerator%%:*}" --topology="${accelerator#*:}" ;;
    *) set -- --accelerator-type="$accelerator" ;;
  esac
  if ((spot)); then set -- "$@" --spot; fi
  if ((queued)); then
    set -- queued-resources create "$name" --node-id="$name" --runtime-version="$runtime" "$@"
  else
    set -- tpu-vm create "$name" --version="$runtime" "$@"
  fi
  gcloud_tpus "$@" || explain_failure "$1" $?
  ((dry_run || !queued)) || echo "queued; run setup when this prints ACTIVE: gcloud compute tpus" \
    "queued-resources describe $name${zone:+ --zone=$zone}${project:+ --project=$project}" >&2
}

# gcloud has already printed the reason; if the slice exists, this adds what to do.
explain_failure() {
  local state
  if state=$(gcloud_tpus "$1" describe "$name" --format='value(state)' 2>/dev/null); then
    fail "$name exists already (state: $state): continue with setup, or delete it first"
  fi
  exit "$2"
}

setup() {
  local commit archive
  commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null) ||
    fail "$root is not a git checkout; setup copies the git HEAD to the workers"
  [[ -z $(git -C "$root" status --porcelain) ]] ||
    echo "note: the workers get commit $commit, without uncommitted changes" >&2
  archive=dist/xmc_jax-$commit.tar.gz
  execute cd "$root"
  execute mkdir -p dist
  execute git archive --format=tar.gz --output="$archive" HEAD
  gcloud_tpus tpu-vm scp "$archive" "$name:xmc_jax.tar.gz" --worker=all
  # shellcheck disable=SC2016 # Expanded by the worker's shell.
  on_workers all 'bash -c "$(tar -xzOf xmc_jax.tar.gz launch/tpu_worker.sh)" tpu_worker.sh setup'
}

run() {
  check_workdir "$@"
  on_workers all "bash xmc_jax/launch/tpu_worker.sh start $(quote "$@")"
  ((dry_run)) || echo "follow it with: bash launch/tpu_vm.sh logs --name=$name" >&2
}

check_workdir() {
  local workdir=
  while (($#)); do
    case $1 in
      --workdir=* | -workdir=*) workdir=${1#*=} ;;
      --workdir | -workdir) workdir=${2:-} ;;
    esac
    shift
  done
  [[ -n $workdir ]] || fail "no --workdir after --: $example"
  if [[ $workdir == gs://* ]]; then return; fi
  [[ -z $accelerator ]] || check_accelerator
  single_host ||
    fail "--workdir=$workdir would be another folder on each worker: use" \
      "--workdir=gs://BUCKET/RUN (or --accelerator=TYPE if that is a single machine, like v4-8)"
}

logs() {
  local command='bash xmc_jax/launch/tpu_worker.sh logs'
  # shellcheck disable=SC2016 # Expanded by the worker's shell.
  if [[ $worker == all ]]; then command+=' | sed -u "s/^/$(hostname): /"'; fi
  on_workers "$worker" "$command"
}

stop() {
  on_workers all 'bash xmc_jax/launch/tpu_worker.sh stop'
}

delete() {
  local answer=
  if ((!dry_run && !yes)); then
    printf 'Delete %s and its disks (gs:// is kept)? [y/N] ' "$name${zone:+ in $zone}" >&2
    read -r answer || echo >&2
    [[ $answer == [yY] || $answer == [yY]es ]] || fail "not deleted; answer y, or use --yes"
  fi
  if ((queued)); then
    gcloud_tpus queued-resources delete "$name" --force --quiet
  else
    gcloud_tpus tpu-vm delete "$name" --quiet
  fi
}

parse "$@"
check_flags
while (($#)) && [[ $1 != -- ]]; do shift; done
if [[ $verb != run ]]; then
  (($# < 2)) || fail "$verb takes no arguments after --; run does"
  "$verb"
else
  (($# > 1)) || fail "nothing after --: $example"
  run "${@:2}"
fi
