#!/usr/bin/env bash
# Paper:    RAFT (Teed and Deng, ECCV 2020) for the order of data sets and the augmentation; DropMAE's journal version has
#           flow, but neither its head nor its numbers are public
# Expected: after Chairs and Things, Sintel's training set at 1.3 to 2.0 (clean) and 2.4 to 3.2 (final): a guess, between
#           FAST-Base (1.28, 2.34) and CroCo-Flow v1 (2.07, 2.57). Not run: no such data and no GPU at hand
# Hours:    10 on one H200, estimated from its multiplications
# Use:      recipes/flow-full.sh INIT CHAIRS THINGS SINTEL KITTI; INIT a pre-trained run of size base; OUT=flow-full
set -euo pipefail
init=$1 chairs=$2 things=$3 sintel=$4 kitti=$5 out=${OUT:-flow-full}
train() { # INIT OUT STEPS and flags
  dropmae finetune flow "${@:4}" --init "$1" --out "$2" --steps "$3" --preset base --size base --eraser 50 100 \
    --weight-decay 1e-4 --clip 1 --warmup 5%
}
train "$init" "$out/chairs" 100000 flyingchairs="$chairs" --image 368 496 --scales -0.1 1.0 --noise 5 \
  --global-batch 16 --lr 3.2e-3
train "$out/chairs" "$out/things" 200000 flyingthings="$things" --image 400 720 --scales -0.4 0.8 \
  --global-batch 8 --lr 3.2e-3
dropmae evaluate sintel --root "$sintel" --weights "$out/things" --out "$out/sintel-things"
dropmae evaluate kittiflow --root "$kitti" --weights "$out/things" --out "$out/kitti-things"
# RAFT draws Sintel 100 times (each pass), KITTI 200 times and HD1K 5 times (which is not read yet) for each pair of Things.
train "$out/things" "$out/sintel" 100000 sintel="$sintel*5.2" kittiflow="$kitti*1" flyingthings="$things*1" \
  --image 368 768 --scales -0.2 0.6 --global-batch 8 --lr 3.2e-3
train "$out/sintel" "$out/kitti" 50000 kittiflow="$kitti" --image 288 960 --scales -0.2 0.4 --flips 0 0 \
  --global-batch 8 --lr 3.2e-3
dropmae evaluate sintel --split test --root "$sintel" --weights "$out/sintel" --out "$out/sintel-test"
dropmae evaluate kittiflow --split test --root "$kitti" --weights "$out/kitti" --out "$out/kitti-test"
