#!/usr/bin/env bash
# What:     action recognition on clips whose class is only how a texture moves (left, right, up, down, still), rendered
#           as they are needed; and two controls on the same clips: the first frame repeated, the frames shuffled
# Expected: top-1 .98 in order, .20 (chance) with the first frame repeated, .37 shuffled: docs/results.md
# Hours:    0.03 on one CPU core with AVX512-BF16
# Use:      recipes/action-motion.sh OUT; STEPS=400, SEED=0
set -euo pipefail
out=$1
mkdir -p "$out"
dropmae finetune action "motions=$out" --out "$out/action" --size tiny --depth 3 --patch 8 --image 32 --frames 8 \
  --stride 1 --flip 0 --scale 0.5 1 --no-randaugment --erasing 0 --mixup 0 --cutmix 0 --smoothing 0 --drop-path 0 \
  --layer-decay 1 --steps "${STEPS:-400}" --global-batch 16 --lr 0.016 --warmup 10% --workers 0 --seed "${SEED:-0}"
for order in forward first shuffled; do
  dropmae evaluate motions --root "$out" --weights "$out/action" --out "$out/eval/tiny/$order" --order $order \
    --workers 1 --set every=0 views=1 crops=1
done
python "$(dirname "$0")/table.py" "$out/eval"
