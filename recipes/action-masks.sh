#!/usr/bin/env bash
# What:     is MGM below an untrained encoder in docs/results.md (Action recognition) for want of budget, and does it matter
#           which tokens are hidden? Ten times the steps of recipes/action-probes.sh, seeds 0 to 2 of motion, tube and random
#           masks; motion masks for half the steps; a quarter of the mask at random; ratios .5 and .9; each by its probes
# Expected: docs/results.md, Action recognition
# Hours:    about 1.5 on one CPU core with AVX512-BF16
# Use:      recipes/action-masks.sh OUT; RUNS="motion-0 tube-0 ..." (arm, seed) for some, STEPS=2500
set -euo pipefail
out=$1 steps=${STEPS:-2500}
dropmae synth "$out/clips" --clips 200 --frames 24 --size 96 96 --points 0 --no-masks --no-flow
dropmae prepare "$out/clips" "$out/frames" --frames
core="none-0 motion-0 tube-0 random-0 none-1 motion-1 tube-1 random-1 none-2 motion-2 tube-2 random-2"
for run in ${RUNS:-$core half-0 half-1 half-2 mix-0 half_hidden-0 most_hidden-0}; do
  arm=${run%-*} seed=${run##*-}
  case $arm in
    none) settings="--steps 1 --lr 1e-12" ;;
    motion | tube | random) settings="--steps $steps --lr 1.6e-2 --mask $arm" ;;
    half) settings="--steps $((steps / 2)) --lr 1.6e-2 --mask motion" ;;
    mix) settings="--steps $steps --lr 1.6e-2 --mask motion --mask-mix 0.25" ;;
    half_hidden) settings="--steps $steps --lr 1.6e-2 --mask motion --mask-ratio 0.5" ;;
    most_hidden) settings="--steps $steps --lr 1.6e-2 --mask motion --mask-ratio 0.9" ;;
  esac
  # shellcheck disable=SC2086  # several words
  dropmae pretrain mgm "$out/frames" --out "$out/runs/$run" --size tiny --depth 4 --image 32 --patch 8 --scale 0.3 1 \
    --frames 8 --stride 2 --global-batch 16 --warmup 5% --workers 0 --seed "$seed" $settings
  dropmae evaluate motions --root "$out" --weights "$out/runs/$run" --out "$out/eval/$run/knn" --workers 1 \
    --set frames=8 stride=1 image=32 every=0
  for protocol in linear attentive; do
    dropmae finetune action "motions=$out" --init "$out/runs/$run" --out "$out/runs/$run-$protocol" \
      --protocol $protocol --attend clip --size tiny --depth 4 --patch 8 --image 32 --frames 8 --stride 1 --flip 0 \
      --scale 0.5 1 --no-randaugment --erasing 0 --mixup 0 --cutmix 0 --smoothing 0 --drop-path 0 --layer-decay 0.75 \
      --steps 200 --global-batch 16 --lr 0.016 --warmup 10% --workers 0 --validate-every 100% --seed "$seed"
    dropmae evaluate motions --root "$out" --weights "$out/runs/$run-$protocol" --out "$out/eval/$run/$protocol" \
      --workers 1 --set every=0 views=1 crops=1
  done
done
python "$(dirname "$0")/table.py" "$out/eval"
