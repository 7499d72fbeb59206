#!/usr/bin/env bash
# What:     does the number of tokens decide whether dropped attention pays (docs/claim.md, a)? MAE, TwinMAE and DropMAE at
#           7 x 7 and 14 x 14 tokens (patch 16 and 8 at 112 pixels), size tiny, equal pairs, frames resident in memory; each
#           judged without training: matching, joints, label propagation, gap, attention between frames
# Expected: exploration; see docs/results.md, "Token density"
# Hours:    2 on one thread of a CPU with AVX512-BF16; the same command goes on where it was stopped
# Use:      recipes/claim-tokens.sh VIDEOS OUT DAVIS BADJA [MORE]: DAVIS and BADJA are roots, MORE a folder with the
#           animals that DAVIS lacks; STEPS=200 of 32 pairs; RUNS="twinmae-16-0 ..." (method, patch, seed), in that order
set -euo pipefail
videos=$1 out=$2 davis=$3 badja=$4
frames=("$davis" "${@:5}")
steps=${STEPS:-200}
runs=${RUNS:-twinmae-16-0 dropmae-16-0 mae-16-0 twinmae-8-0 dropmae-8-0 mae-8-0 twinmae-16-1 dropmae-16-1}
here=$(cd "$(dirname "$0")" && pwd)

train() { # METHOD PATCH SEED
  local settings="--steps $steps --crop shared"
  if [ "$1" = mae ]; then settings="--steps $((2 * steps))"; fi
  dropmae pretrain "$1" "$out/frames" --out "$out/runs/$1-$2-$3" --size tiny --image 112 --patch "$2" $settings \
    --scale 0.5 1 --global-batch 32 --lr 8e-3 --warmup 5% --validate-every 10% --save-every 10% --seed "$3" \
    --resident --workers 0
}

# Rows of the table that were not trained here.
untrained() { # METHOD PATCH
  [ -f "$out/$1-$2-random.safetensors" ] || python - "$@" "$out/$1-$2-random.safetensors" <<'PYTHON'
import sys
import torch
from dropmae import registry, weights
torch.manual_seed(0)
weights.save(registry.load("methods", sys.argv[1])(size="tiny", image=112, patch=int(sys.argv[2])), sys.argv[3])
PYTHON
}

match() { # NAME WEIGHTS PATCH
  local to="$out/eval/$1"
  dropmae evaluate matching --root "$out/clips" --weights "$2" --out "$to/matching-own" --workers 1
  if [ "$3" != 8 ]; then
    dropmae evaluate matching --root "$out/clips" --weights "$2" --out "$to/matching-14" --set grid=14 --workers 1
  fi
  dropmae evaluate badja --root "$badja" --frames "${frames[@]}" --scale joints --weights "$2" --out "$to/badja" \
    --set grid=14 --workers 1
}

# A token is 16 pixels of a frame whose short side is 480, whatever the patch.
propagate() { # NAME WEIGHTS PATCH
  dropmae evaluate davis --root "$out/davis" --year 2016 --weights "$2" --out "$out/eval/$1/davis" --workers 1 \
    --set "resize=short$((30 * $3))" "multiple=$((4 * $3))"
}

each() { # FUNCTION: for every row of the table
  local run words
  for run in $runs; do
    words=(${run//-/ })
    "$1" "$run" "$out/runs/$run" "${words[1]}"
  done
  for patch in 16 8; do
    "$1" "random-$patch-0" "$out/twinmae-$patch-random.safetensors" $patch
  done
  "$1" shipped-encoder shipped:encoder 14
}

# Every fifth frame of DAVIS, by links.
thinned() {
  local kind sequence file
  shopt -s nullglob
  for kind in JPEGImages Annotations; do
    for sequence in "$davis/$kind/480p"/*/; do
      local to="$out/davis/$kind/480p/$(basename "$sequence")" number=0
      mkdir -p "$to"
      for file in "$sequence"*; do
        if [ $((number++ % 5)) = 0 ]; then ln -sf "$(realpath "$file")" "$to/"; fi
      done
    done
  done
}

dropmae prepare "$videos" "$out/frames" --frames --short-side 144
for run in $runs; do
  train ${run//-/ }
done
untrained twinmae 16
untrained twinmae 8
each match
thinned
each propagate
python "$here/claim-tokens.py" "$out"
