#!/usr/bin/env bash
# Make .venv with recell, the lab and the tools, from pinned versions. Quick when it is there already.
# `lab/setup.sh --nova 19` also makes the lab's environment of that Nova, which `recell-lab up` else does.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x /usr/bin/python3 ] || ! /usr/bin/python3 -c 'import venv, ensurepip' 2>/dev/null; then
  echo "installing python3-venv"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  apt-get install -q -y --no-install-recommends python3 python3-venv ca-certificates >/dev/null
fi
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Python 3.11 or newer is needed at /usr/bin/python3 (Debian 12 has it)" >&2
  exit 6
}

# The tree's own path is part of the stamp: an editable install points at it.
stamp=$( (pwd; cat pyproject.toml lab/pins.txt) | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ]; then
  echo "making .venv"
  rm -rf .venv
  /usr/bin/python3 -m venv .venv
  .venv/bin/pip install -q --disable-pip-version-check -c lab/pins.txt uv
  .venv/bin/uv pip install -q -p .venv/bin/python -c lab/pins.txt --group dev -e .
  echo "$stamp" > .venv/.stamp
fi

if [ "${1:-}" = --nova ]; then
  .venv/bin/python -m recell_lab.packages "${2:?which Nova? 19 or 33.0.2}"
fi
