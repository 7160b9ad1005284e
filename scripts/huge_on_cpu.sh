#!/usr/bin/env bash
# One whole optimizer step of the largest network on two CPU ranks with ZeRO-3, from a synthetic
# volume: prints time, losses and the peak of memory. docs/huge_on_cpu.md has what was measured.
#   bash scripts/huge_on_cpu.sh [folder for the run] [size]
# The folder ends with 16 GB in it for huge; a run that is finished there is not repeated.
# PYTHON names another interpreter than python3.
set -euo pipefail
out=$(realpath -m "${1:-huge_on_cpu}")
size=${2:-huge}
PYTHON=${PYTHON:-python3}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONWARNINGS=ignore
# glibc keeps what is freed in blocks below these bytes; by default they grow to 32 MiB.
export MALLOC_MMAP_THRESHOLD_=1048576 MALLOC_TRIM_THRESHOLD_=1048576
# On CPUs with AMX, torch 2.13 computes bf16 gradients of wide in-plane convolutions that are NaN.
export ONEDNN_MAX_CPU_ISA=${ONEDNN_MAX_CPU_ISA:-AVX512_CORE_BF16}
# Should memory run out, this job is ended, and nothing else.
echo 1000 >/proc/self/oom_score_adj

for name in train held_out; do
  [ -f "$out/$name/index.json" ] || "$PYTHON" -m tokenunify_scale prepare --out "$out/$name" \
    --volumes "synthetic:seed=${#name},shape=32x128x128" --crops 2 --crop 16,32,32 --per-shard 2
done
set -m # the launcher gets a process group, by which its ranks are found
began=$SECONDS
"$PYTHON" -m deepspeed.launcher.runner --num_gpus 2 --master_port "${MASTER_PORT:-29500}" \
  scripts/pretrain.py --size "$size" --strategy huge_cpu --out "$out/run" \
  --shards "$out/train" --held-out "$out/held_out" --set held_out_crops=2 \
  --steps 1 --global-batch 2 --set optim.lr=1e-4 --set optim.warmup=0 --log-every 1 \
  >"$out/log" 2>&1 &
job=$!
trap 'kill -- -"$job" 2>/dev/null || true' EXIT
peak=0
while kill -0 "$job" 2>/dev/null; do
  # What each process has in memory, shared pages divided among those that share them, in KiB.
  ranks=$(pgrep -g "$job" | sed 's|.*|/proc/&/smaps_rollup|')
  # shellcheck disable=SC2086
  now=$(awk '/^Pss:/ {sum += $2} END {print sum + 0}' $ranks 2>/dev/null || true)
  peak=$((${now:-0} > peak ? now : peak))
  sleep 0.5
done
code=0
wait "$job" || code=$?
[ "$code" = 0 ] || { tail -n 20 "$out/log" >&2; exit "$code"; }

"$PYTHON" - "$out/run" "$peak" "$((SECONDS - began))" <<'END'
import json, sys
from pathlib import Path

from safetensors import safe_open

run, peak, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
before, after = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
result = json.loads((run / "result.json").read_text())
with safe_open(run / "model.safetensors", "pt") as file:
    tensors = {name: file.get_slice(name).get_shape() for name in file.keys()}
    finite = all(file.get_tensor(name).isfinite().all() for name in tensors)
    count = sum(file.get_tensor(name).numel() for name in tensors)
saved = sum(path.stat().st_size for path in (run / "checkpoints").rglob("*") if path.is_file())
print(f"network            {result['model']['name']}, {count:,} weights")
print(f"all are finite     {'yes' if finite else 'NO'}")
print(f"loss of the step   {after['loss']:.5f}, gradient norm {after['grad_norm']:.4f}")
print(f"held-out loss      {before['held_out_loss']:.5f}, after it {after['held_out_loss']:.5f}")
print(f"the step took      {2 / after['crops_per_s']:.0f} s")
print(f"the whole job      {seconds} s")
print(f"peak of memory     {peak / 2**20:.2f} GiB, launcher and two ranks (sum of PSS every 0.5 s)")
print(f"checkpoint         {saved / 1e9:.1f} GB, complete")
END
