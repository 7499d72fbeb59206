#!/usr/bin/env bash
# What:     the point tracker for CPUs: light convolutions, learned from collages of photographs, videos and cut-outs that
#           move over each other, whose points are known exactly; nothing was labelled by hand
# Expected: see docs/results.md, Tracking any point
# Hours:    about 1 on one CPU core with AVX2
# Use:      recipes/tap-cpu.sh PICTURES OUT; STEPS=3500, SEED=0. PICTURES holds photographs, videos and pictures with alpha
set -euo pipefail
dropmae finetune tap "collage=$1" --out "$2" --steps "${STEPS:-3500}" --global-batch 8 --lr 0.048 --schedule cosine \
  --warmup 1% --workers 0 --validate-every 20% --seed "${SEED:-0}"
