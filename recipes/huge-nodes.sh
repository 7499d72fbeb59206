#!/usr/bin/env bash
# What:     DropMAE with ViT-H/14, weights, gradients and moments shared among all GPUs of several nodes (--shard)
# Expected: no published number: the paper stops at ViT-B. Losses are those of the same run without --shard
# Hours:    not measured; `dropmae bench --size huge --simulate nodes=4 gpus=8 sharding=fsdp tflops=300` gives an estimate
# Use:      recipes/huge-nodes.sh VIDEOS OUT, on every node, with NNODES, NODE_RANK and MASTER_ADDR set; OUT on a file
#           system that all nodes share. RESTARTS=3 times a failed process starts all of them again, from the checkpoint
set -euo pipefail
videos=$1 out=$2
torchrun --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "${GPUS:-8}" \
  --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-localhost}:29500" --max-restarts "${RESTARTS:-3}" \
  -m dropmae pretrain "${METHOD:-dropmae}" "$videos" --out "$out" --size huge --image 224 --shard \
  --epochs "${EPOCHS:-400}" --warmup 10% --global-batch 4096 --micro-batch "${MICRO:-32}" --lr 1.5e-4 \
  --weight-decay 0.05 --clip 1 --workers 10 --save-every 500
