#!/usr/bin/env bash
# Paper:    SiamMAE, NeurIPS 2023, ViT-S/16 on Kinetics-400 (30 fps, at least 3 s), 2000 epochs of two pairs per video
#           counted as two, that is 1000 passes (ablations of the paper: EPOCHS=200)
# Expected: DAVIS-2017 val J&F 62.0 (58.1 after 400 epochs), VIP mIoU 37.3, JHMDB PCK@0.1 47.0, from the paper; not
#           re-run here
# Hours:    not stated by the paper, on four Titan RTX; PATCH=8 on eight of them reaches 71.4
# Use:      recipes/siammae-k400.sh VIDEOS OUT, on every node, with torchrun's NNODES, NODE_RANK and MASTER_ADDR set
set -euo pipefail
videos=$1 out=$2
torchrun --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "${GPUS:-4}" \
  --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-localhost}:29500" \
  -m dropmae pretrain siammae "$videos" --out "$out" --size small --image 224 --patch "${PATCH:-16}" \
  --epochs "${EPOCHS:-1000}" --repeats 2 --warmup 2% --global-batch 2048 --lr 1.5e-4 --weight-decay 0.05 --workers 10
