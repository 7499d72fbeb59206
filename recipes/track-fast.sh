#!/usr/bin/env bash
# What:     the heads of shipped:fast, a tracker on the encoder that comes with the package: views of pasted cut-outs and
#           of moved pieces of pictures, then heads on their features, without and then with the filter on small cells
# Expected: shipped/fast.md has the numbers of that file
# Hours:    1 on one CPU core without bfloat16: 20 minutes of views, 10 of features, 25 of heads
# Use:      recipes/track-fast.sh OUT CLIPS PHOTOS CUTOUTS: folders of videos, of photographs, and of PNGs with alpha;
#           FILES=4 of 500 episodes each, STEPS="1200 1300". Needs OpenCV (the extra `bench`)
set -euo pipefail
out=$1 clips=$2 photos=$3 cutouts=$4
here=$(dirname "$0")
read -r first second <<<"${STEPS:-1200 1300}"
mkdir -p "$out"
for seed in $(seq 100 $((99 + ${FILES:-4}))); do
  [ -f "$out/views-$seed.npz" ] || python "$here/dcf-views.py" "$out/views-$seed.npz" --clips "$clips"/* \
    --photos "$photos"/* --cutouts "$cutouts"/* --episodes "${EPISODES:-500}" --seed "$seed"
done
heads() { python "$here/dcf-heads.py" shipped:encoder "$@" --image 224 --taps 2 4 --trunk shipped:encoder \
  --cache "$out/cache" --views "$out"/views-*.npz; }
heads "$out/coarse.safetensors" --steps "$first"
heads "$out/fast.safetensors" --init "$out/coarse.safetensors" --fine 192 --steps "$second" --seed 2 --rate 1e-3
