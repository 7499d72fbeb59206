#!/usr/bin/env bash
# What:     a tiny tracker with 128-pixel search crops for CPUs, trained on rendered clips and on labels made from any
#           unlabelled videos (pieces pasted into other videos, warped frames, cycle-checked matches)
# Expected: see docs/numbers.md; the mean overlap of the validation samples begins to rise after some 5,000 samples
# Hours:    about 2.5 for 120,000 samples on one CPU core with AVX512-BF16 and one more for the data
# Use:      recipes/track-cpu.sh VIDEOS INIT OUT, INIT a pre-trained run of size tiny; SAMPLES=120000, SEED=0
set -euo pipefail
videos=$1 init=$2 out=$3 batch=32
dropmae prepare "$videos" "$out/frames" --frames --short-side 200
dropmae synth "$out/clips" --clips 1000 --frames 24 --size 200 240 --points 0 --no-flow
dropmae finetune vot "$out/clips*1" "selfmade=$out/frames*1" --init "$init" --out "$out/tracker" --size tiny --image 128 \
  --steps $((${SAMPLES:-120000} / batch)) --global-batch $batch --lr 8e-3 --schedule cosine --warmup 5% --clip 1 \
  --encoder-rate 0.3 --keep-start 0.3 --keep-warm 0.4 --repeats 2 --seed "${SEED:-0}" --validate-every 5%
