#!/usr/bin/env bash
# What:     DropMAE on a Slurm cluster, one torchrun per node; a job that is requeued after a failed node, a preemption
#           or its time limit continues the run by itself, because the same command on the same folder does
# Expected: as recipes/dropmae-k400.sh; docs/scaling.md simulates it. Not run on a cluster by us
# Hours:    21 per 400 epochs of Kinetics-400 on the paper's 64 GPUs
# Use:      sbatch --nodes 8 recipes/dropmae-slurm.sh VIDEOS OUT, both on a file system that all nodes share;
#           SIZE=huge SHARD=--shard, EPOCHS=400
#SBATCH --job-name=dropmae
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
videos=$1 out=$2
first=${SLURM_JOB_NODELIST:-localhost}
if command -v scontrol > /dev/null; then first=$(scontrol show hostnames "$first" | head -n 1); fi
export OMP_NUM_THREADS=1
srun --kill-on-bad-exit=1 torchrun --nnodes "${SLURM_JOB_NUM_NODES:-1}" --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
  --rdzv-id "${SLURM_JOB_ID:-0}" --rdzv-backend c10d --rdzv-endpoint "$first:29500" --max-restarts 3 \
  -m dropmae pretrain "${METHOD:-dropmae}" "$videos" --out "$out" --size "${SIZE:-base}" --image 224 \
  --epochs "${EPOCHS:-400}" --warmup 10% --global-batch 4096 --lr 1.5e-4 --weight-decay 0.05 --workers 10 \
  --save-every 500 ${SHARD:-}
