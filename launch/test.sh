#!/usr/bin/env bash
# Sets everything up, with what only tests need, and runs the linter and the tests. Arguments go to pytest.
#
#   bash launch/test.sh [-k checkpoint …]
#   bash launch/test.sh --long              # also long tests of what other tests check as well
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh test
bin=${XMC_VENV:-$PWD/.venv}/bin

"$bin/ruff" check .
# All tests of a file run in one process, so that what they share is made once.
exec "$bin/python" -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"
