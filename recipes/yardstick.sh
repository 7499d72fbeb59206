#!/usr/bin/env bash
# What:     the project's yardstick: MAE, TwinMAE and DropMAE, size tiny, 112 pixels, equal frames seen
#           (64,000 pairs; MAE 128,000 single frames), on any folder of videos. Both frames of a pair share a crop of
#           at least half the frame: with crops of their own, 64,000 pairs are too few to learn matching from.
# Expected: on a hundred short clips, 16,000 frames: see docs/results.md
# Hours:    about 1 on one CPU core with AVX512-BF16
# Use:      recipes/yardstick.sh VIDEOS OUT [METHOD ...]; dropmae convert OUT/METHOD FILE --encoder-only --half makes
#           an encoder of 11 MB to start from
set -euo pipefail
videos=$1 out=$2
shift 2
methods=${*:-dropmae twinmae mae}
dropmae prepare "$videos" "$out/frames" --frames --short-side 144
for method in $methods; do
  settings="--steps 1000 --crop shared"
  if [ "$method" = mae ]; then settings="--steps 2000"; fi
  dropmae pretrain "$method" "$out/frames" --out "$out/$method" --size tiny --image 112 \
    $settings --scale 0.5 1 --global-batch 64 --lr 4e-3 --warmup 5% --validate-every 5% --seed "${SEED:-0}"
done
