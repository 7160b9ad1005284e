# Sourced by quickstart.sh and test.sh: make or reuse .venv, install what is missing, activate it.
# shellcheck shell=bash
TORCH=${TOKENUNIFY_TORCH:-torch==2.13.0}
PYTHON=${PYTHON:-python3}

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "error: $PYTHON is $("$PYTHON" --version), 3.10 or newer is needed; set PYTHON" >&2
  exit 3
fi
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
# shellcheck disable=SC1091
source .venv/bin/activate

# What was installed last time; a changed setup.py or torch installs anew.
stamp=.venv/installed
wanted="$TORCH $(cksum <setup.py)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setting up .venv (minutes, once)"
  pip install --quiet --disable-pip-version-check "$TORCH"
  pip install --quiet --disable-pip-version-check --editable '.[test]'
  echo "$wanted" >"$stamp"
fi
