#!/usr/bin/env bash
# Set up what is missing, then ruff, mypy and pytest; with arguments only pytest, paths relative to this folder.
set -eu
root=$(self=$0
  while [ -L "$self" ]; do CDPATH='' cd "$(dirname "$self")" && self=$(readlink "${self##*/}"); done
  CDPATH='' cd -P "$(dirname "$self")" && pwd)
program=run_tests.sh extras=notebooks,encoders,test failed=
. "$root/tools/setup.sh"
cd "$root"
[ $# = 0 ] || exec "$python" -m pytest "$@"
check() { echo "== $*" && "$python" -m "$@" || failed="$failed $1"; }
check ruff check .
check ruff format --check .
check mypy
# A process a core, and an idle one takes tests of others; CONTRIBUTING.md says how the slower tests are run.
check pytest -n logical --dist worksteal -m "not browser and not faults and not slow"
[ -z "$failed" ] || fail "failed:$failed"
