#!/usr/bin/env bash
# launch/tpu_vm.sh runs this script on each worker of a slice:
#
#   setup               unpacks ~/xmc_jax.tar.gz into ~/xmc_jax and installs it there
#   start [ARGUMENTS]   starts `python -m xmc_jax.train ARGUMENTS`; it survives the ssh session
#   logs                follows the log of the training until it ends
#   stop                makes the training save and exit, and waits for it
#
# runs/train.pid and runs/train.log in the checkout belong to the training. `setup` is run from the
# archive before a checkout exists, so this script sources no other file.
set -euo pipefail

checkout=$HOME/xmc_jax
pid_file=$checkout/runs/train.pid
log=$checkout/runs/train.log
python=$checkout/.venv/bin/python

fail() {
  echo "error: $(hostname): $*" >&2
  exit 2
}

# Whether training runs here, as process $pid. After a restart of the machine another process may
# have this number.
running() {
  pid=$(cat "$pid_file" 2>/dev/null) || return 1
  grep -qa xmc_jax.train "/proc/$pid/cmdline" 2>/dev/null
}

versions=(3.11 3.12 3.13) # Those that launch/setup.sh accepts.

has_python() {
  local version
  for version in "${versions[@]}"; do
    "python$version" -c 'import ensurepip' 2>/dev/null && return
  done
  return 1
}

# The system images of Cloud TPU VMs have Python 3.10, or lack its venv module.
install_python() {
  # A new machine first updates itself and holds the lock of apt for minutes.
  local apt=(sudo DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get -qq
    -o DPkg::Lock::Timeout=600)
  "${apt[@]}" update
  local version
  for version in "${versions[@]}"; do
    "${apt[@]}" install -y "python$version-venv" && return
  done
  return 1
}

setup() {
  if running; then
    fail "training runs here (process $pid): stop it before its code is replaced"
  fi
  mkdir -p "$checkout"
  cd "$checkout"
  # Files that the new commit lacks must not stay; runs/ and .venv/ are kept.
  rm -rf xmc_jax configs
  tar -xzf ~/xmc_jax.tar.gz
  has_python || install_python
  bash launch/setup.sh tpu
  echo "$(hostname): ready"
}

start() {
  if running; then
    fail "training runs already (process $pid): follow it with logs, or stop it first"
  fi
  [[ -x $python ]] || fail "nothing is installed in $checkout: run setup first"
  cd "$checkout"
  mkdir -p runs
  echo "== $(date '+%F %T') python -m xmc_jax.train ${*@Q}" >>"$log"
  # setsid starts a new session, so the end of the ssh session sends no SIGHUP. Without a TPU,
  # training fails instead of using the CPU.
  JAX_PLATFORMS=tpu,cpu setsid "$python" -m xmc_jax.train "$@" </dev/null >>"$log" 2>&1 &
  pid=$!
  echo "$pid" >"$pid_file"
  # Wrong arguments fail within seconds; report them here, not only in the log.
  for _ in 1 2 3 4 5 6; do
    sleep 0.5
    if ! kill -0 "$pid" 2>/dev/null; then
      local status=0
      wait "$pid" || status=$?
      tail -n 3 "$log" | sed "s/^/$(hostname): /" >&2
      exit "$status"
    fi
  done
  echo "$(hostname): training runs (process $pid)"
}

logs() {
  [[ -e $log ]] || fail "no log: no training was started here"
  if running; then
    exec tail -n 100 -F --pid="$pid" "$log"
  fi
  tail -n 100 "$log"
  echo "$(hostname): no training runs; these are the last lines of $log" >&2
}

stop() {
  if ! running; then
    echo "$(hostname): no training runs"
    return
  fi
  kill -TERM "$pid"
  echo "$(hostname): waiting until training (process $pid) has saved and exited"
  for ((second = 0; second < 600; second++)); do
    if ! running; then
      echo "$(hostname): stopped; $(tail -n 1 "$log")"
      return
    fi
    sleep 1
  done
  fail "training (process $pid) still runs 10 minutes after SIGTERM: see its log"
}

case ${1:-} in
  setup | start | logs | stop) "$@" ;;
  *) fail "tpu_worker.sh: no verb '${1:-}'; there are setup, start, logs, stop" ;;
esac
