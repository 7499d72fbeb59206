#!/usr/bin/env bash
# What:     what encoders know of motion: nothing trained, mae, siammae, twinmae, dropmae, and mgm with three kinds of
#           masks, tiny with four blocks, 32,000 frames of rendered clips seen by each; then k-NN, a linear and an
#           attentive probe, and fine-tuning, on clips whose class is only how a texture moves
# Expected: docs/results.md, Action recognition
# Hours:    about 0.5 on one CPU core with AVX512-BF16
# Use:      recipes/action-probes.sh OUT; SEED=0, METHODS="mgm-motion mgm-tube mgm-random" for some of them
set -euo pipefail
out=$1 seed=${SEED:-0}
dropmae synth "$out/clips" --clips 200 --frames 24 --size 96 96 --points 0 --no-masks --no-flow
dropmae prepare "$out/clips" "$out/frames" --frames
train() { # NAME METHOD SETTINGS...
  name=$1 method=$2
  shift 2
  dropmae pretrain "$method" "$out/frames" --out "$out/$name-$seed" --size tiny --depth 4 --image 32 --patch 8 --scale 0.3 1 \
    --warmup 5% --workers 0 --seed "$seed" "$@"
}
probe() { # NAME WHAT-TOKENS-ATTEND-TO SETTINGS... -- SETTINGS OF THE TASK...
  name=$1 attend=$2
  shift 2
  dropmae evaluate motions --root "$out" --weights "$out/$name-$seed" --out "$out/eval/$name-$seed/knn" --workers 1 \
    --set frames=8 stride=1 image=32 every=0
  for protocol in linear attentive finetune; do
    dropmae finetune action "motions=$out" --init "$out/$name-$seed" --out "$out/$name-$seed-$protocol" \
      --protocol $protocol --attend "$attend" --size tiny --depth 4 --patch 8 --image 32 --frames 8 --stride 1 --flip 0 \
      --scale 0.5 1 --no-randaugment --erasing 0 --mixup 0 --cutmix 0 --smoothing 0 --drop-path 0 --layer-decay 0.75 \
      --steps 200 --global-batch 16 --lr 0.016 --warmup 10% --workers 0 --validate-every 100% --seed "$seed" "$@"
    dropmae evaluate motions --root "$out" --weights "$out/$name-$seed-$protocol" \
      --out "$out/eval/$name-$seed/$protocol" --workers 1 --set every=0 views=1 crops=1
  done
}
for name in ${METHODS:-none-frames none-clip mae siammae twinmae dropmae mgm-motion mgm-tube mgm-random}; do
  case $name in
    none-frames) train $name mae --steps 1 --global-batch 1 --lr 1e-12 && probe $name frames --cls ;;
    none-clip) train $name mgm --frames 8 --stride 2 --steps 1 --global-batch 1 --lr 1e-12 && probe $name clip ;;
    mae) train $name mae --steps 500 --global-batch 64 --lr 4e-3 && probe $name frames --cls ;;
    siammae) train $name siammae --steps 250 --global-batch 64 --lr 4e-3 && probe $name frames --cls ;;
    twinmae | dropmae) train $name $name --steps 250 --global-batch 64 --lr 4e-3 --crop shared && probe $name pairs ;;
    mgm-*) train $name mgm --mask "${name#mgm-}" --frames 8 --stride 2 --steps 250 --global-batch 16 --lr 1.6e-2 &&
      probe $name clip ;;
  esac
done
python "$(dirname "$0")/table.py" "$out/eval"
