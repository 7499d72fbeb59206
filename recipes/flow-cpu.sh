#!/usr/bin/env bash
# What:     a tiny flow network for CPUs, trained on pairs rendered from photographs and cut-outs, and what it is worth
#           beside zero flow and OpenCV's Farneback and DIS
# Expected: the end-point error of the validation samples falls below half of zero flow's within the first 2,000 steps
# Hours:    1 for 24,000 samples on one CPU core with AVX2 (140 ms a sample)
# Use:      recipes/flow-cpu.sh PICTURES OUT MIDDLEBURY CHAIRS SINTEL, folders in the layouts of docs/flow.md; STEPS=6000
set -euo pipefail
pictures=$1 out=$2
dropmae finetune flow layers="$pictures" --validation layers:held="$pictures" --out "$out/run" \
  --steps "${STEPS:-6000}" --workers 0 --validate-every 25% --save-every 50
dropmae convert "$out/run" "$out/flow.safetensors" --half
for pair in middlebury="$3" flyingchairs="$4" sintel="$5"; do
  dropmae evaluate "${pair%%=*}" --root "${pair#*=}" --weights "$out/flow.safetensors" --out "$out/${pair%%=*}" --json
  python "$(dirname "$0")/flow-table.py" "${pair%%=*}" "${pair#*=}" "$out/${pair%%=*}/predictions"
done
