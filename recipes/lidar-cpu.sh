#!/usr/bin/env bash
# What:     the small tracker for LiDAR scans that comes with the package; it learns from rendered streets alone
# Expected: see src/dropmae/shipped/lidar.md and docs/results.md
# Hours:    0.2 for rendering and 0.7 for training on one CPU core with AVX-512
# Use:      recipes/lidar-cpu.sh OUT [KITTI]; STEPS=11000, SEED=0
set -euo pipefail
out=$1 kitti=${2:-}
render() {  # FOLDER SEED BEAMS COLUMNS DISTANCE CLUTTER, and what else is told
  dropmae synth "$out/$1" --scans --seed "$2" --beams "$3" --columns "$4" --distance "$5" --clutter "$6" "${@:7}"
}
# Trained on: four scanners. Settings are chosen with four others; the last one is for reporting.
render train/a 21 64 1800 35 1 --clips 120 --frames 10
render train/b 22 40 1400 40 1.5 --clips 120 --frames 10
render train/c 23 24 900 40 2.5 --clips 120 --frames 10
render train/d 24 64 2000 25 3 --clips 120 --frames 10
render choose/a 11 64 1800 35 1 --clips 8 --frames 20 --objects 4 8
render choose/b 12 40 1300 40 1.5 --clips 8 --frames 20 --objects 4 8
render choose/c 13 28 1000 50 2.5 --clips 8 --frames 20 --objects 4 8
render choose/d 14 30 1100 48 2.2 --clips 10 --frames 20 --objects 4 8
render test 7 32 1080 45 2 --clips 16 --frames 24 --objects 4 8
dropmae finetune lidar "$out"/train/{a,b,c,d} --out "$out/tracker" --steps "${STEPS:-11000}" --seed "${SEED:-0}" \
  --workers 0 --precision fp32 --validation "$out/choose/c"
dropmae convert "$out/tracker" "$out/lidar.safetensors" --half
for follow in votes points both; do
  for streets in choose/{a,b,c,d} test; do
    dropmae evaluate folder3d --root "$out/$streets" --weights "$out/lidar.safetensors" --out "$out/$follow/$streets" \
      --set follow=$follow
  done
done
if [ -n "$kitti" ]; then
  dropmae evaluate kitti3d --root "$kitti" --weights "$out/lidar.safetensors" --out "$out/kitti"
fi
