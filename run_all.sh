#!/usr/bin/env bash
# Reproduce the results: set up what is missing, then run the notebooks. Options: ./run_all.sh --help
set -eu

if ! command -v python3 >/dev/null; then
  echo "run_all.sh: there is no python3 on PATH; install Python 3.11 or newer" >&2
  exit 1
fi

self=$0
while [ -L "$self" ]; do # readlink -f is missing on older macOS
  target=$(readlink "$self")
  case $target in /*) self=$target ;; *) self=$(dirname "$self")/$target ;; esac
done
root=$(CDPATH='' cd -P "$(dirname "$self")" && pwd)
exec python3 "$root/tools/bootstrap.py" run_all "$@"
