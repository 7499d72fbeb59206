#!/usr/bin/env bash
# Paper:    ToBo (NeurIPS 2025, arXiv 2507.06543), ViT-S/16 on Kinetics-400
# Expected: DAVIS-2017 J&F 60.6, VIP mIoU 34.0, JHMDB PCK@0.1 47.0 by label propagation; not run here
# Hours:    200 epochs of 240,000 videos, two pairs of each; dropmae bench --simulate tells the hours of a cluster
# Hardware: 1,536 videos a step, which are 3,072 pairs: the rate per 256 pairs is half the paper's per 256 videos
# Use:      recipes/tobo-k400.sh VIDEOS OUT
set -euo pipefail
torchrun --standalone --nproc-per-node "${GPUS:-8}" -m dropmae pretrain tobo "$1" --out "$2" --size small \
  --epochs 200 --repeats 2 --global-batch 3072 --lr 7.5e-5 --warmup 20ep --weight-decay 0.05
