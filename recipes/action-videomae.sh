#!/usr/bin/env bash
# Paper:    VideoMAE's fine-tuning (arXiv 2203.12602), by which MGM is judged too; the rates are those of its scripts. A
#           video that is drawn twice (num_sample 2) counts twice in the batch and in the epoch, so --lr is halved
# Expected: top-1 with VideoMAE's own encoders: K400 B 80.0 (800 epochs), 81.5 (1600), SSv2 B 69.6 (800), 70.8 (2400),
#           UCF101 91.3; not run here, as it needs the data and days of eight GPUs
# Hours:    days on 8 or more GPUs
# Use:      recipes/action-videomae.sh DATA INIT OUT; RUN=k400-b800 k400-b1600 k400-s k400-l k400-h ssv2-s ssv2-b800
#           ssv2-b2400 ucf101-b. INIT is a run of `pretrain mgm --mask tube`; torchrun for several GPUs
set -euo pipefail
data=$1 init=$2 out=$3
run=${RUN:-k400-b800}
case $run in # size, --lr, videos a step, draws of each, epochs, layer decay, drop path, dropout
  k400-s) set -- small 2.5e-4 384 2 150 .75 .1 0 ;;
  k400-b800) set -- base 1e-3 512 1 100 .75 .1 0 ;;
  k400-b1600) set -- base 2.5e-4 384 2 75 .75 .1 0 ;;
  k400-l) set -- large 1e-3 128 2 35 .75 .1 0 ;;
  k400-h) set -- huge 5e-4 512 2 50 .75 .2 .5 ;;
  ssv2-s) set -- small 5e-4 384 2 40 .70 .1 0 ;;
  ssv2-b800) set -- base 5e-4 512 1 50 .75 .1 0 ;;
  ssv2-b2400) set -- base 2.5e-4 384 2 30 .75 .1 0 ;;
  ucf101-b) set -- base 2.5e-4 128 2 100 .70 .2 .5 ;;
  *) echo "no run $run" >&2 && exit 2 ;;
esac
preset=${run%%-*}
case $preset in # benchmark, training videos
  k400) benchmark=kinetics videos=240436 ;;
  ssv2) benchmark=ssv2 videos=168913 ;;
  ucf101) benchmark=ucf101 videos=9537 ;;
esac
case $run-$4 in # the rate at the end, halved with two draws
  k400-h-* | ucf101-*) end=5e-6 ;;
  *-2) end=5e-7 ;;
  *) end=1e-6 ;;
esac
dropmae finetune action "$benchmark=$data" --init "$init" --out "$out" --preset "$preset" --size "$1" --patch 16 \
  --lr "$2" --global-batch $(($3 * $4)) --repeats "$4" --epochs "$5" --epoch-samples $((videos * $4)) --warmup 5ep \
  --layer-decay "$6" --drop-path "$7" --dropout "$8" --min-lr "$end"
dropmae evaluate "$benchmark" --root "$data" --weights "$out" --out "$out/eval" --set every=0
