#!/usr/bin/env bash
# What:     which start helps flow: the same network with a ViT beside its convolutions, from random weights, from MAE,
#           TwinMAE and DropMAE, and DropMAE with alternating in place of joint attention, at equal budget
# Expected: not run. If attention within frames dominates a joint encoder, alternating attention gains most from MAE
#           and least from DropMAE
# Hours:    5 for each of 9 runs on one CPU core, estimated from the tiny network's 140 ms a sample
# Use:      recipes/flow-starts.sh PICTURES MAE TWINMAE DROPMAE OUT, three pre-trained runs of size tiny; STEPS=6000
set -euo pipefail
pictures=$1 out=$5 seeds=${SEEDS:-0 1 2}
train() { # NAME SEED and flags
  dropmae finetune flow layers="$pictures" --validation layers:held="$pictures" --size tiny --out "$out/$1-$2" \
    --seed "$2" --steps "${STEPS:-6000}" --workers 0 "${@:3}"
}
train random 0
train mae 0 --init "$2"
train mae-alternating 0 --init "$2" --pair alternating
for seed in $seeds; do
  train twinmae "$seed" --init "$3"
  train dropmae "$seed" --init "$4"
done
train dropmae-alternating 0 --init "$4" --pair alternating
for run in "$out"/*/; do
  dropmae evaluate synthetic --root "$out/clips" --weights "$run" --out "$out/numbers/$(basename "$run")" --json
done
