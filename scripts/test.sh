#!/usr/bin/env bash
# Set up .venv in this checkout (once), then run the linter and all tests that this machine can run.
#   bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ruff check .
# A process a core, one thread each: small networks gain nothing from more, and contended OpenMP
# threads are slower. A file's tests stay together, for what they share.
OMP_NUM_THREADS=1 python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile "$@"
