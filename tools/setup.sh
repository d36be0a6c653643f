# For run_all.sh and run_tests.sh: sets `python` to the interpreter to use, with the packages of `extras`: the python3 on
# PATH if dal_core is installed there (a folder of this name is not meant), else that of .venv, made anew if need be.
fail() { echo "$program: $*" >&2; exit 1; }
try() { output=$("$@" 2>&1) || fail "$* failed: $(echo "$output" | tail -n 3)"; }
ask() { (cd / && PYTHONPATH='' exec "$@") 2>/dev/null; }
has_project() { ask "$1" -c 'import importlib.util; importlib.util.find_spec("dal_core").origin + ""'; }
is_ready() { [ "$(cat "$venv/complete" 2>/dev/null)" = "$stamp" ] && has_project "$python"; }
lock() { ask "$found" -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX | $1)"; }
make_ready() {
  oldest=$(sed -n 's/^requires-python = ">=\([0-9.]*\).*/\1/p' pyproject.toml)
  ask "$found" -c "import sys, ensurepip, venv; sys.exit(sys.version_info < tuple(map(int, '$oldest'.split('.'))))" ||
    fail "needs Python $oldest or newer with venv (Debian: apt install python3-venv); python3 on PATH:" \
      "${found:-none}${found:+, $("$found" --version 2>&1)}"
  exec 9<. # A lock that ends with this process and those it starts; a file system without locks goes without.
  lock fcntl.LOCK_NB || { echo "$program: waiting for another call that sets up .venv" >&2 && lock 0; } || true
  ! is_ready || return 0
  echo "$program: setting up .venv (once; PyTorch is large)" >&2
  # Without this folder's stamp it is half made or comes from elsewhere.
  if ! grep -qsxFe "$root" "$venv/complete" || ! has_project "$python"; then
    [ -d "$venv" ] || rm -f "$venv"
    try "$found" -m venv --clear "$venv"
  fi
  rm -f "$venv/complete"
  uv=$(command -v uv) || { try env PIP_USER=0 "$python" -m pip install --quiet uv && uv=$venv/bin/uv; }
  index=$("$python" -m pip config list | sed -n "s/.*[.]index-url='\(.*\)'/\1/p" | tail -n 1) # of a mirror: uv's, too
  [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
  "$uv" pip install --python "$python" --compile-bytecode -r requirements.lock -e . >&2 || fail "cannot install, see above"
  printf '%s\n' "$stamp" >"$venv/complete"
}
trap 'echo "$program: stopped; the same command goes on from there" >&2; exit 130' INT
found=$(command -v python3) || found=
# The python3 of an activated .venv cannot make that one anew: the next one on PATH is meant.
[ ! "${found%/*}" -ef "$root/.venv/bin" ] || found=$(PATH=${PATH#*"${found%/*}:"} && command -v python3) || found=
if [ -n "$found" ] && has_project "$found"; then
  python=$found
  lacking=$(ask "$python" -c 'import importlib.metadata as metadata, re, sys
wanted = "extra == .(%s)|^[^;]*$" % sys.argv[1].replace(",", "|")
needed = [re.match(r"[\w-]+", each)[0] for each in metadata.requires("dal-core") if re.search(wanted, each)]
print(*(name for name in needed if not any(metadata.distributions(name=name))))' "$extras") || true
  [ -z "$lacking" ] || fail "$python lacks $lacking; to add: $python -m pip install -e '${root}[$extras]'"
else
  venv=$root/.venv python=$root/.venv/bin/python
  stamp=$(echo "$root" && cd "$root" && sed '/^\[tool\./,$d' pyproject.toml | cat - requirements.lock | cksum)
  is_ready || (cd "$root" && unset PYTHONPATH && make_ready) || exit 1
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
