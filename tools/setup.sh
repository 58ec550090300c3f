#!/bin/sh
# Finds a Python that can build the environment and hands over to setup_venv.py. PYTHON=/path/to/python chooses one.
set -eu
cd "$(dirname "$0")/.."

# Runs in every Python 3, also in those that are too old, and names the first thing that is missing.
probe='
import os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 14):
    sys.exit("is Python %s, needed is 3.10 to 3.14" % version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("cannot create virtual environments: apt install python%s-venv" % version)
if not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("has no headers to compile the messages against: apt install python%s-dev" % version)
'

# A finished environment is kept, whatever the default python3 of the shell is by now.
candidates=${PYTHON:-.venv/bin/python python3 python3.13 python3.12 python3.11 python3.10 python3.14}
rejected=
for python in $candidates; do
    command -v "$python" >/dev/null 2>&1 || { rejected="$rejected
  $python: not found"; continue; }
    if reason=$("$python" -c "$probe" 2>&1); then
        exec "$python" tools/setup_venv.py
    fi
    rejected="$rejected
  $python: $(printf '%s' "$reason" | tail -n 1)"
done
echo "setup: no suitable Python found; install Python 3.10 or later with its headers, for example
  apt install python3 python3-dev python3-venv
or name one: make setup PYTHON=/path/to/python3.11. Looked at:$rejected" >&2
exit 1
