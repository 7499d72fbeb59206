#!/usr/bin/env bash
# What:     all five methods and no training at all, size tiny, 112 pixels, 128,000 frames seen by each (a pair counts 2,
#           an MGM clip 16, MAE 1), on one folder of videos; then label propagation on rendered clips, and on DAVIS and
#           BADJA where they are given, in one table. Same peak rate 1e-3 for all; MGM's batches are smaller, as
#           128,000 frames are only 8,000 clips. Frames are stored decoded, so MGM matches blocks for its motion.
# Expected: docs/results.md; training beats random weights by more than 5 points of J&F
# Hours:    about 2.5 on one CPU core with AVX512-BF16, evaluation on DAVIS included
# Use:      recipes/five-methods.sh VIDEOS OUT [DAVIS [BADJA]]; YEAR=2016 for DAVIS-2016, PRESET=cropmae, SEED=1
set -euo pipefail
videos=$1 out=$2 davis=${3:-} badja=${4:-}
seed=${SEED:-0} preset=${PRESET:-dino} eval=$out/eval-${PRESET:-dino}
dropmae prepare "$videos" "$out/frames" --frames --short-side 144
train() { # METHOD SETTINGS...
  method=$1
  shift
  dropmae pretrain "$method" "$out/frames" --out "$out/$method-$seed" --size tiny --image 112 --scale 0.5 1 \
    --warmup 5% --seed "$seed" "$@"
}
measure() { # NAME WEIGHTS
  dropmae evaluate synthetic --root "$out/synthetic" --weights "$2" --out "$eval/$1/synthetic" --set preset="$preset" \
    resize=native multiple=0
  if [ -n "$davis" ]; then
    dropmae evaluate davis --root "$davis" --year "${YEAR:-2017}" --weights "$2" --out "$eval/$1/davis" --set preset="$preset"
  fi
  if [ -n "$badja" ]; then
    dropmae evaluate badja --root "$badja" --weights "$2" --out "$eval/$1/badja" --set preset="$preset"
  fi
}
measure "random-$seed" "random:tiny:mae:$seed:112"
train mae --steps 2000 --global-batch 64 --lr 4e-3
train twinmae --steps 1000 --global-batch 64 --lr 4e-3 --crop shared
train dropmae --steps 1000 --global-batch 64 --lr 4e-3 --crop shared
train siammae --steps 1000 --global-batch 64 --lr 4e-3
train mgm --steps 500 --global-batch 16 --lr 1.6e-2
for method in mae twinmae dropmae siammae mgm; do measure "$method-$seed" "$out/$method-$seed"; done
python "$(dirname "$0")/table.py" "$eval"
