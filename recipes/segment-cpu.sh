#!/usr/bin/env bash
# What:     a tiny segmenter for CPUs: the first and the previous frame as memory,
#           trained on rendered clips and on pieces of unlabelled videos pasted into others; large objects in 128-pixel
#           crops first, then whole frames
# Expected: J&F 51.3 on seven sequences of DAVIS-2016 (docs/results.md, "A small segmenter"); the J of the validation samples rises after the first 2,000 samples and
#           passes 0.6 at 12,000
# Hours:    1.4 for 28,800 samples on one CPU core with AVX512-BF16, and 0.5 for rendering
# Use:      recipes/segment-cpu.sh VIDEOS INIT OUT, INIT a pre-trained run of size tiny; SAMPLES=24000, SEED=0
set -euo pipefail
videos=$1 init=$2 out=$3 batch=8 samples=${SAMPLES:-24000}
dropmae prepare "$videos" "$out/frames" --frames --short-side 200
dropmae synth "$out/clips" --clips 1000 --frames 24 --size 200 240 --points 0 --no-flow
train() { # INIT OUT STEPS and flags
  dropmae finetune vos "$out/clips*3" "paste=$out/frames*1" --init "$1" --out "$2" --steps "$3" --preset light \
    --short-side 320 --rotation 4 --shear 3 --drop-path 0 --bootstrap-share 0.25 --global-batch $batch --schedule cosine \
    --weight-decay 0.05 --clip 1 --encoder-rate 0.6 --seed "${SEED:-0}" --validate-every 10% "${@:4}"
}
train "$init" "$out/crops" $((samples / batch)) --image 128 --scale 0.12 0.9 --lr 1.6e-2 --warmup 5% --bootstrap-progress 0.02 0.2
train "$out/crops" "$out/segmenter" $((samples / batch / 5)) --image 160 192 --scale 0.2 1 --lr 8e-3 --warmup 3% \
  --bootstrap-progress 0 0.001
dropmae convert "$out/segmenter" "$out/vos.safetensors" --half
