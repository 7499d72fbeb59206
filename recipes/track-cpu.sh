#!/usr/bin/env bash
# What:     the tiny tracker that comes with the package: search crops of 128 pixels, for CPUs. A DropMAE encoder and the
#           tracker learn from rendered clips and from labels made of unlabelled videos (pieces pasted into other videos,
#           warped frames); no video was labelled by hand
# Expected: see src/dropmae/shipped/vot.md and docs/results.md
# Hours:    0.5 for rendering, 0.4 for the encoder and about 1.5 for the tracker on one CPU core with AVX512-BF16, and
#           a third of a core more for the data
# Use:      recipes/track-cpu.sh VIDEOS OUT; INIT=RUN takes that encoder; STEPS=2400 and then MORE=3600, SEED=0
set -euo pipefail
videos=$1 out=$2 init=${INIT:-$2/encoder}
dropmae prepare "$videos" "$out/frames/real" --frames --short-side 200
dropmae synth "$out/clips" --clips 1000 --frames 24 --size 200 240 --points 0 --no-flow
if [ -z "${INIT:-}" ]; then
  dropmae prepare "$out/clips" "$out/frames/rendered" --frames
  mkdir -p "$out/frames/all" # each real video 25 times, so that half of the pairs are real
  ln -sfn ../rendered "$out/frames/all/rendered"
  for copy in $(seq 25); do ln -sfn ../real "$out/frames/all/real-$copy"; done
  dropmae pretrain dropmae "$out/frames/all" --out "$init" --size tiny --image 112 --crop shared --scale 0.5 1 \
    --steps 700 --global-batch 64 --lr 4e-3 --warmup 5% --validate-every 5% --seed "${SEED:-0}"
fi
follow() { # INIT OUT STEPS SEED and flags
  dropmae finetune vot "$out/clips*0.35" "paste=$out/frames/real*0.45" "warp=$out/frames/real*0.2" \
    --init "$1" --out "$2" --size tiny --image 128 --search-factor 3.5 --template-factor 1.75 --ce-keep-ratio 1 \
    --centre-jitter 2.6 --scale-jitter 0.35 --downsample-prob 0.5 --motion-blur-prob 0.25 --size-smoothing 0.85 --first-frame-bias --augment joint \
    --steps "$3" --global-batch 32 --lr 1.2e-2 --schedule cosine --warmup 4% --clip 1 --repeats 2 \
    --validate-every 10% --seed "$4" "${@:5}"
}
follow "$init" "$out/first" "${STEPS:-2400}" "${SEED:-0}" --encoder-rate 0.5
follow "$out/first" "$out/tracker" "${MORE:-3600}" "$((${SEED:-0} + 1))" --encoder-rate 1
