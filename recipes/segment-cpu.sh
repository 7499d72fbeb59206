#!/usr/bin/env bash
# What:     a tiny segmenter for CPUs (128-pixel crops, the previous frame as memory beside the first), trained on
#           rendered clips and on pieces of unlabelled videos that were pasted into other ones
# Expected: see docs/segmentation.md; the J of the validation samples rises within the first 2,000 samples
# Hours:    about 1 for 48,000 samples on one CPU core with AVX512-BF16, and one more for the data
# Use:      recipes/segment-cpu.sh VIDEOS INIT OUT, INIT a pre-trained run of size tiny; SAMPLES=48000, SEED=0
set -euo pipefail
videos=$1 init=$2 out=$3 batch=16
dropmae prepare "$videos" "$out/frames" --frames --short-side 200
dropmae synth "$out/clips" --clips 1000 --frames 24 --size 200 240 --points 0 --no-flow
dropmae finetune vos "$out/clips*3" "paste=$out/frames*1" --init "$init" --out "$out/segmenter" --preset light \
  --image 128 --short-side 160 --steps $((${SAMPLES:-48000} / batch)) --global-batch $batch --lr 8e-3 --schedule cosine \
  --warmup 5% --weight-decay 0.05 --clip 1 --encoder-rate 0.3 --seed "${SEED:-0}" --validate-every 5%
