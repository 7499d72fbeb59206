#!/usr/bin/env bash
# What:     everything about attention dropout that only a GPU can say, then training for the rest of the time: kernel
#           tests with absence failing, kernel error against float64, `bench` (steps, memory, utilisation), tracker
#           speed at 256 and 384, and TwinMAE and DropMAE side by side on frames that stay on the GPU.
# Expected: DropMAE at most 1.15 times TwinMAE's time and 1.1 times its memory, at least 4 times as fast as the textbook
#           form under autocast, at least 30 % of the matrix rate. OUT/gpu-check.json says which of them hold.
# Hours:    8 minutes on one H100; has not run on a GPU yet
# Needs:    Python 3.12, torch 2.11, Triton 3.6, OpenCV; no network, no av, no tyro, no installation
# Use:      recipes/gpu-check.sh VIDEOS OUT; VIDEOS is a folder of short videos, under 20 MB
#           TRAIN=pair (the default), distill (TEACHER=FILE), tracker or none; MINUTES=8; SIZE=tiny
#           DRY=1 goes through all of it on a CPU in about a minute, in small
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
exec "${PYTHON:-python3}" "$root/recipes/gpu-check.py" "$1" "$2"
