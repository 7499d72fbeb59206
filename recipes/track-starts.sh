#!/usr/bin/env bash
# What:     does what an encoder learned before help a tracker? The tiny tracker of recipes/track-cpu.sh, fine-tuned for a
#           few minutes from DropMAE, TwinMAE, MAE and random weights on the same samples, no labelled real video among them
# Expected: see docs/results.md, "Which start helps a tracker"
# Hours:    0.1 a run on one CPU core with AVX512-BF16, 8 runs
# Use:      recipes/track-starts.sh CLIPS FRAMES ENCODERS OUT: CLIPS of `dropmae synth`, FRAMES of `dropmae prepare
#           --frames`, ENCODERS a folder with dropmae, twinmae and mae-tiny-112.safetensors; STEPS=400; then
#           python recipes/sot-table.py --otb DIR --tld DIR --out TABLE --weights OUT/*/last.safetensors --final
set -euo pipefail
clips=$1 frames=$2 encoders=$3 out=$4 steps=${STEPS:-400}
train() { # NAME SEED and flags
  dropmae finetune vot "$clips*0.35" "paste=$frames*0.45" "warp=$frames*0.2" --out "$out/$1-$2" \
    --size tiny --image 128 --search-factor 3.5 --template-factor 1.75 --ce-keep-ratio 1 --centre-jitter 2.6 --scale-jitter 0.5 \
    --size-smoothing 0.85 --first-frame-bias --augment joint --steps "$steps" --global-batch 32 --lr 1.6e-2 --schedule cosine --warmup 10% --clip 1 \
    --encoder-rate 0.5 --repeats 2 --workers 1 --validate-every 50% --seed "$2" "${@:3}"
}
train random 0
train mae 0 --init "$encoders/mae-tiny-112.safetensors"
for seed in 0 1 2; do
  for name in dropmae twinmae; do
    train $name $seed --init "$encoders/$name-tiny-112.safetensors"
  done
done
