#!/usr/bin/env bash
# What:     does what an encoder learned before help a segmenter? The tiny segmenter of recipes/segment-cpu.sh, with the
#           first frame as its only memory and one object a sample, trained for a few minutes from DropMAE, TwinMAE, MAE and
#           random weights on the same samples
# Expected: see docs/results.md, "Which start helps a segmenter"
# Hours:    0.1 a run on one CPU core with AVX512-BF16, 4 runs, and 0.03 for DAVIS each
# Use:      recipes/segment-starts.sh CLIPS FRAMES ENCODERS DAVIS OUT: CLIPS of `dropmae synth` with masks, FRAMES of
#           `dropmae prepare --frames`, ENCODERS a folder with dropmae, twinmae and mae-tiny-112.safetensors; STEPS=700,
#           SEED=0, YEAR=2016
set -euo pipefail
clips=$1 frames=$2 encoders=$3 davis=$4 out=$5 steps=${STEPS:-700}
for name in dropmae twinmae mae random; do
  if [ $name = random ]; then start=(); else start=(--init "$encoders/$name-tiny-112.safetensors"); fi
  dropmae finetune vos "$clips*3" "paste=$frames*1" "${start[@]}" --out "$out/$name" --steps "$steps" --preset light \
    --memory 1 --objects 1 --image 128 --short-side 160 --scale 0.12 0.7 --rotation 4 --shear 3 --drop-path 0 \
    --bootstrap-progress 0.02 0.2 --bootstrap-share 0.25 --global-batch 8 --lr 1.6e-2 --schedule cosine --warmup 5% \
    --weight-decay 0.05 --clip 1 --encoder-rate 0.6 --workers 1 --validate-every 50% --seed "${SEED:-0}"
  dropmae evaluate davis --root "$davis" --year "${YEAR:-2016}" --weights "$out/$name/last.safetensors" \
    --out "$out/$name/davis" --workers 1
done
