#!/usr/bin/env bash
# Sets everything up and runs the linter and the tests. Arguments go to pytest.
#
#   bash launch/test.sh [-k checkpoint …]
#   bash launch/test.sh --long              # also what takes long and is held by other tests too
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
bin=${XMC_VENV:-$PWD/.venv}/bin

"$bin/ruff" check .
# A file is one process's work: what its tests share is made once.
exec "$bin/python" -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"
