#!/usr/bin/env bash
# Paper:    CropMAE (Eymael et al., ECCV 2024, arXiv 2403.17823), ViT-S/16 on Kinetics-400
# Expected: DAVIS-2017 J&F 58.6, VIP mIoU 33.7, JHMDB PCK@0.1 42.9 by label propagation; not run here
# Hours:    400 epochs of 240,000 videos, one frame each; dropmae bench --simulate tells the hours of a cluster
# Hardware: 16 processes of 128 samples
# Use:      recipes/cropmae-k400.sh VIDEOS OUT
set -euo pipefail
torchrun --standalone --nproc-per-node "${GPUS:-8}" -m dropmae pretrain cropmae "$1" --out "$2" --size small \
  --epochs 400 --global-batch 2048 --lr 1e-4 --warmup 20ep --weight-decay 0.05
