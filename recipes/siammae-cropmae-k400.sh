#!/usr/bin/env bash
# Paper:    SiamMAE as the authors of CropMAE (ECCV 2024) trained it, ViT-S/16 on Kinetics-400: their decoder, lower
#           rate, one pair per video. Their dropout of 0.1 in the decoder is left out, and their gap ends at 47.
# Expected: DAVIS-2017 val J&F 58.1, VIP mIoU 33.3, JHMDB PCK@0.1 44.7: a re-run of SiamMAE at 400 epochs by the
#           authors of ToBo, with another decoder; not re-run here
# Hours:    not stated, on 16 GPUs
# Use:      recipes/siammae-cropmae-k400.sh VIDEOS OUT, on every node, with torchrun's variables set
set -euo pipefail
videos=$1 out=$2
torchrun --nnodes "${NNODES:-4}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "${GPUS:-4}" \
  --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-localhost}:29500" \
  -m dropmae pretrain siammae "$videos" --out "$out" --size small --image 224 --preset cropmae --gap 4 47 \
  --epochs "${EPOCHS:-400}" --warmup 5% --global-batch 2048 --lr 1e-4 --weight-decay 0.05 --workers 10
