#!/usr/bin/env bash
# On a machine with a GPU: run every test marked gpu, measure scan, step and objectives. Installs
# nothing.
#   bash scripts/gpu_check.sh [folder for the results]
# Ends with 3 where something is missing; PYTHON names another interpreter than python3.
set -euo pipefail
out=${1:+$(realpath -m "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${out:-runs/gpu_check}
PYTHON=${PYTHON:-python3}

if ! command -v "$PYTHON" >/dev/null; then
  echo "error: this machine lacks $PYTHON: activate an environment, or set PYTHON" >&2
  exit 3
fi
missing=$("$PYTHON" - <<'END'
import importlib.util

needed = ("torch", "pytest", "mamba_ssm", "causal_conv1d")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if "torch" not in missing:
    import torch

    if not torch.cuda.is_available():
        missing.append("a CUDA device that torch sees")
print(", ".join(missing))
END
)
if [ -n "$missing" ]; then
  echo "error: this machine lacks $missing; nothing was run, nothing installed" >&2
  exit 3
fi

# pytest ends with 5 where no test is collected, which fails here as any failure does.
"$PYTHON" -m pytest -m gpu
for what in scan step objectives; do
  "$PYTHON" -m tokenunify_scale benchmark "$what" --device cuda --out "$out"
done
echo "results: $out/scan.json $out/step.json $out/objectives.json"
