#!/usr/bin/env bash
# Sets everything up and runs the linter and the tests. Arguments go to pytest.
#
#   bash launch/test.sh [-k checkpoint …]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
bin=${XMC_VENV:-$PWD/.venv}/bin

"$bin/ruff" check .
exec "$bin/python" -m pytest -n 2 "$@"
