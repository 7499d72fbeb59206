#!/usr/bin/env bash
# Paper:    DropMAE, CVPR 2023, section 4.4: DropSeg, ViT-B/16 at 384 pixels on DAVIS-2017 and YouTube-VOS 2019 train
# Expected: DAVIS-2017 val J&F / J / F 83.1 / 80.2 / 86.0 from DropMAE on K400 (1600 epochs), 81.7 from MAE;
#           DAVIS-2016 val 92.1 / 90.9 / 93.3; from the paper, not re-run here
# Hours:    not stated in the paper; 210,000 steps of 32 samples on 8 GPUs
# Use:      recipes/dropseg.sh DAVIS YOUTUBEVOS INIT OUT
#           Departs from the paper in the optimizer, AdamW for Adam, which at a decay of 1e-7 makes no difference.
set -euo pipefail
davis=$1 youtube=$2 init=$3 out=$4
# Each DAVIS video counts five times: 300 of 3,764 videos.
torchrun --nproc-per-node "${GPUS:-8}" -m dropmae finetune vos "davis=$davis*300" "youtubevos=$youtube*3464" \
  --init "$init" --out "$out" --preset dropseg --steps 210000 --global-batch 32 --lr 1.6e-4 --drop 125000 \
  --weight-decay 1e-7 --clip 0 --validation "davis:val=$davis" --validate-every 10000 --save-every 10000 --workers 10
dropmae evaluate davis --root "$davis" --weights "$out" --out "$out/davis2017"
# The zips for the servers
dropmae evaluate davis --root "$davis" --split test-dev --weights "$out" --out "$out/test-dev" \
  --submission "$out/davis-test-dev.zip"
dropmae evaluate youtubevos --root "$youtube" --weights "$out" --out "$out/youtube" --submission "$out/youtube.zip"
