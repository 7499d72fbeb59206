#!/usr/bin/env bash
# What:     does the diversity of motion matter more than that of scenes (DropMAE, section 4.4)? DropMAE, size tiny, on
#           four sets of 512 rendered clips: 8 or 512 different scenes, 4 or 512 different motions; 32,000 pairs each
# Expected: with the paper's finding, few scenes with many motions come out above many scenes with few motions
# Hours:    about 1.5 on one CPU core with AVX512-BF16, rendering and evaluation included
# Use:      recipes/motion-or-scene.sh OUT; METHOD=siammae or twinmae, SEED=1
set -euo pipefail
out=$1
for scenes in 8 512; do
  for motions in 4 512; do
    name=scenes$scenes-motions$motions
    dropmae synth "$out/clips-$name" --clips 512 --frames 24 --size 144 --scenes "$scenes" --motions "$motions" \
      --points 0 --no-masks --no-flow
    dropmae prepare "$out/clips-$name" "$out/frames-$name" --frames --short-side 144
    dropmae pretrain "${METHOD:-dropmae}" "$out/frames-$name" --out "$out/$name" --size tiny --image 112 \
      --steps 500 --global-batch 64 --lr 4e-3 --warmup 5% --scale 0.5 1 --crop shared --seed "${SEED:-0}"
    dropmae evaluate synthetic --root "$out/synthetic" --weights "$out/$name" --out "$out/eval/$name/synthetic" \
      --set resize=native multiple=0
  done
done
python "$(dirname "$0")/table.py" "$out/eval"
