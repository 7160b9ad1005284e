#!/usr/bin/env bash
# From nothing to a scaling curve, on synthetic EM, without a GPU: set up .venv, pretrain, fine-tune,
# segment and score two sizes with four initialisations, draw the figure, export a model.
# What is finished is skipped when it is run again.
#   bash scripts/quickstart.sh [--out DIR]
set -euo pipefail
out=quickstart
while [ $# -gt 0 ]; do
  case $1 in
    --out) [ $# -ge 2 ] || { echo "error: --out needs a folder" >&2; exit 2; }; out=$2; shift 2 ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown option $1; valid: --out DIR" >&2; exit 2 ;;
  esac
done
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

python scripts/scaling.py run cpu_demo --out "$out"
# The larger size from TokenUnify's weights: the model that later commands of the README use.
cell=femto-tokenunify-s0
model=$out/model
if [ ! -f "$model/result.json" ] || [ "$out/evaluate/$cell/result.json" -nt "$model/result.json" ]; then
  python scripts/export.py --run "$out/finetune/$cell" --evaluation "$out/evaluate/$cell" --out "$model"
fi

cat <<END

Results:
  report, in a browser $out/report.html
  scaling figure       $out/scaling.png
  score table          $out/table.md
  segmentation         $out/evaluate/$cell/sections.png
  errors               $out/evaluate/$cell/errors.png
  neurons              $out/evaluate/$cell/neurons.png
  viewer, in a browser $out/evaluate/$cell/viewer.html
  exported model       $model
Next, your own stack:
  source .venv/bin/activate
  tokenunify segment --model $model --volume YOUR_STACK.tif --out neurons
END
