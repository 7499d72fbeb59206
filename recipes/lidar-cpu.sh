#!/usr/bin/env bash
# What:     the small tracker for LiDAR scans that comes with the package; it learns from rendered streets alone
# Expected: see src/dropmae/shipped/lidar.md and docs/results.md
# Hours:    0.2 for rendering and 0.4 for training on one CPU core
# Use:      recipes/lidar-cpu.sh OUT [KITTI]; STEPS=900, SEED=0
set -euo pipefail
out=$1 kitti=${2:-}
dropmae synth "$out/train" --scans --clips 100 --frames 12
dropmae synth "$out/test" --scans --clips 16 --frames 24 --objects 4 8 --beams 32 --columns 1080 --distance 45 \
  --clutter 2 --seed 7
dropmae finetune lidar "$out/train" --out "$out/tracker" --steps "${STEPS:-900}" --seed "${SEED:-0}"
for follow in votes points both; do
  dropmae evaluate folder3d --root "$out/test" --weights "$out/tracker" --out "$out/$follow" --set follow=$follow
done
if [ -n "$kitti" ]; then
  dropmae evaluate kitti3d --root "$kitti" --weights "$out/tracker" --out "$out/kitti"
fi
