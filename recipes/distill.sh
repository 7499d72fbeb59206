#!/usr/bin/env bash
# What:     the encoder that comes with the package: four blocks of 384 channels, begun as the first four of DINOv2
#           ViT-S/14, learn the features after its eighth, on crops of pictures and clips; each token must also find
#           itself in another crop. The shipped file learned from such crops with cut-outs pasted over them, by a script
#           with the same losses (src/dropmae/shipped/encoder.md says what differs); this run has not been made whole
# Expected: shipped/encoder.md has the curve and the numbers of that file
# Hours:    1.5 on a third of a busy CPU core with AMX
# Use:      recipes/distill.sh PICTURES TEACHER OUT: PICTURES a folder of videos and folders of pictures, TEACHER a weight
#           file or dinov2-s; STEPS=1400, SEED=0; DAVIS=FOLDER also carries its masks, YEAR=2016
set -euo pipefail
pictures=$1 teacher=$2 out=$3
dropmae pretrain distill "$pictures" --teacher "$teacher" --out "$out" --size small --depth 4 --patch 14 --image 224 \
  --learned-positions 16 --begin 1 2 3 4 --layers 8 --no-projection --matching 0.1 --colour 0.7 --scale 0.2 1 \
  --global-batch 8 --steps "${STEPS:-1400}" --lr 3.2e-3 --warmup 50 --weight-decay 0.02 --betas 0.9 0.99 --clip 1 \
  --seed "${SEED:-0}"
if [ -n "${DAVIS:-}" ]; then
  dropmae evaluate davis --root "$DAVIS" --year "${YEAR:-2016}" --weights "$out" --out "$out/davis"
fi
