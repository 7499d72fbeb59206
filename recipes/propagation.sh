#!/usr/bin/env bash
# What:     one encoder by the rules of all four scripts, on whichever of DAVIS-2017, VIP and JHMDB are given
# Expected: DINO's ViT-S/16 (dropmae convert): DAVIS J&F 61.8 by the rules of dino; CropMAE's on ImageNet: 60.1, VIP
#           33.2, JHMDB 43.5 by those of cropmae; both published, not re-run here
# Hours:    DAVIS with ViT-S/16: about 1.5 per preset on one CPU core, minutes on a GPU
# Use:      recipes/propagation.sh WEIGHTS OUT DAVIS [VIP] [JHMDB]
set -euo pipefail
weights=$1 out=$2 davis=$3 vip=${4:-} jhmdb=${5:-}
for preset in dino crw cropmae dinov3; do
  dropmae evaluate davis --root "$davis" --weights "$weights" --out "$out/$preset/davis" --set preset="$preset"
  if [ -n "$vip" ]; then
    dropmae evaluate vip --root "$vip" --weights "$weights" --out "$out/$preset/vip" --set preset="$preset"
  fi
  if [ -n "$jhmdb" ]; then
    dropmae evaluate jhmdb --root "$jhmdb" --weights "$weights" --out "$out/$preset/jhmdb" --set preset="$preset"
  fi
done
python "$(dirname "$0")/table.py" "$out"
