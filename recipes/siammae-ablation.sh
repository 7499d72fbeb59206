#!/usr/bin/env bash
# What:     SiamMAE's ablation at a small budget: both encoders, three decoders, four mask ratios, 32,000 pairs each
# Expected: siamese encoder with a cross decoder far above any joint encoder (the paper; a replication on UCF101 with
#           ViT-T/16 and 5 epochs has J&F 45 against 26 to 29); 95 % best in the paper, all ratios alike in that one
# Hours:    about 2 on one CPU core with AVX512-BF16, evaluation included
# Use:      recipes/siammae-ablation.sh VIDEOS OUT
set -euo pipefail
videos=$1 out=$2
dropmae prepare "$videos" "$out/frames" --frames --short-side 144
train() { # NAME SETTINGS...
  name=$1
  shift
  dropmae pretrain siammae "$out/frames" --out "$out/$name" --size tiny --image 112 --steps 500 --global-batch 64 \
    --lr 4e-3 --warmup 5% "$@"
  dropmae evaluate synthetic --root "$out/synthetic" --weights "$out/$name" --out "$out/eval/$name/synthetic" \
    --set preset=cropmae resize=native multiple=0
}
for encoding in siamese joint; do
  for decoding in cross-self cross joint; do
    train "$encoding-$decoding" --encoding "$encoding" --decoding "$decoding"
  done
done
for ratio in 0.5 0.75 0.9; do train "ratio-$ratio" --mask-ratio "$ratio"; done
python "$(dirname "$0")/table.py" "$out/eval"
