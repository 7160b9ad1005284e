#!/usr/bin/env bash
# Set up .venv in this checkout (once), then run the linter and all tests that this machine can run.
#   bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ruff check .
# One thread each: small networks gain nothing from more, and contended OpenMP threads are slower.
OMP_NUM_THREADS=1 python -m pytest "$@"
