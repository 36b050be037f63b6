#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on each worker of a slice:
#
#   setup               unpacks ~/xmc_jax.tar.gz into ~/xmc_jax and installs it there
#   start [ARGUMENTS]   starts `python -m xmc_jax.train ARGUMENTS`, which outlives the ssh session
#   logs                follows its log until it ends
#   stop                has it save and end, and waits for that
#
# The checkout's runs/train.pid and runs/train.log are the training's. `setup` is run out of the
# archive, before there is a checkout, so this script sources nothing.
set -euo pipefail

checkout=$HOME/xmc_jax
pid_file=$checkout/runs/train.pid
log=$checkout/runs/train.log
python=$checkout/.venv/bin/python

fail() {
  echo "error: $(hostname): $*" >&2
  exit 2
}

# Whether training runs here, as process $pid. After a restart of the machine the number may be
# another process's.
running() {
  pid=$(cat "$pid_file" 2>/dev/null) || return 1
  grep -qa xmc_jax.train "/proc/$pid/cmdline" 2>/dev/null
}

has_python() {
  python3.11 -c 'import ensurepip' 2>/dev/null || python3.12 -c 'import ensurepip' 2>/dev/null
}

# The images of Cloud TPU VMs come with Python 3.10, or without its venv module.
install_python() {
  # A new machine first updates itself, and holds apt's lock for minutes.
  local apt=(sudo DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get -qq
    -o DPkg::Lock::Timeout=600)
  "${apt[@]}" update
  "${apt[@]}" install -y python3.11-venv || "${apt[@]}" install -y python3.12-venv
}

setup() {
  if running; then
    fail "training runs here (process $pid): stop it before its code is replaced"
  fi
  mkdir -p "$checkout"
  cd "$checkout"
  # What the new commit no longer has must not be found; runs/ and .venv/ stay.
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
  # A session of its own: the end of this one sends it no SIGHUP. Without its TPU it fails, rather
  # than train on the CPU.
  JAX_PLATFORMS=tpu,cpu setsid "$python" -m xmc_jax.train "$@" </dev/null >>"$log" 2>&1 &
  pid=$!
  echo "$pid" >"$pid_file"
  # A mistake in the arguments shows within seconds, and here rather than in the log.
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
  [[ -e $log ]] || fail "no log: nothing was started here"
  if running; then
    exec tail -n 100 -F --pid="$pid" "$log"
  fi
  tail -n 100 "$log"
  echo "$(hostname): nothing runs; these were the last lines of $log" >&2
}

stop() {
  if ! running; then
    echo "$(hostname): nothing runs"
    return
  fi
  kill -TERM "$pid"
  echo "$(hostname): waiting until training (process $pid) has saved and ended"
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
