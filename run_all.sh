#!/usr/bin/env bash
# Reproduce the results: set up what is missing, then run the notebooks. Options: ./run_all.sh --help
set -eu
root=$(self=$0
  while [ -L "$self" ]; do CDPATH='' cd "$(dirname "$self")" && self=$(readlink "${self##*/}"); done
  CDPATH='' cd -P "$(dirname "$self")" && pwd)
usage=$root/tools/usage.txt
for each in "$@"; do # Help, the list and a misspelt option are answered before anything is set up.
  case $each in
    -h | --help) exec cat "$usage" ;;
    --list)
      echo "notebooks (--only)"
      (cd "$root/notebooks" && grep -Hm 1 "^# # " [0-9][0-9]_*.py && ls [0-9][0-9]_*.ipynb) | # A number is listed once.
        sed "s/^\(..\)[^:]*:# # /  \1  /;s/^\(..\)_\(.*\)\.ipynb$/  \1  \2/" | awk '!seen[$1]++'
      echo "presets (--preset)"
      sed -n 's/^\([a-z]*\) = "\(.*\)"/  \1      \2/;s/^\(  [a-z ]\{6\}\) */\1 /p' "$root/dal_lab/companion/presets/presets.toml"
      exit ;;
    -*)
      grep -qFe "  ${each%%=*} " "$usage" && continue
      echo "error: unknown option $each; there are $(grep -o "^  --[a-z-]*" "$usage" | xargs | sed "s/ /, /g")" >&2
      exit 2 ;;
  esac
done
program=run_all.sh extras=notebooks,encoders
. "$root/tools/setup.sh"
# -P: nothing of the working directory is imported.
DAL_ROOT=$root DAL_PROGRAM=$program exec "$python" -P -m dal_lab notebooks "$@"
