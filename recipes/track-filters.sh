#!/usr/bin/env bash
# What:     the heads of shipped:filters, a tracker on the encoder that comes with the package: views of pasted cut-outs and
#           of moved pieces of pictures, then heads on their features; its filters learn nothing before they are used
# Expected: shipped/filters.md has the numbers of that file, which was made in seven runs (1,200 steps on views without
#           parts, then 600, 1,500, with shapes that change 1,200, told of the extent 1,500, 1,400 and 5,500), not in this one
# Hours:    1.3 on one CPU core: 10 minutes of views, 15 of features, 50 of heads
# Use:      recipes/track-filters.sh OUT CLIPS PHOTOS CUTOUTS: folders of videos, of photographs, and of PNGs with alpha;
#           FILES=8 of EPISODES=500 each, STEPS=3300. Needs OpenCV (the extra `bench`)
set -euo pipefail
out=$1 clips=$2 photos=$3 cutouts=$4
here=$(dirname "$0")
mkdir -p "$out"
for seed in $(seq 200 $((199 + ${FILES:-8}))); do
  [ -f "$out/views-$seed.npz" ] || python "$here/dcf-views.py" "$out/views-$seed.npz" --clips "$clips"/* \
    --photos "$photos"/* --cutouts "$cutouts"/* --episodes "${EPISODES:-500}" --seed "$seed" --parts 0.3 --shapes 0.5
done
python "$here/dcf-heads.py" shipped:encoder "$out/filters.safetensors" --image 224 --taps 2 4 --trunk shipped:encoder \
  --fine 192 --extent --cache "$out/cache" --views "$out"/views-*.npz --steps "${STEPS:-3300}" \
  --set presence=facts calibration=1.7,6.4,7.6,-2.83 size_rate=0.5 search_below=0.5 hold_below=0.06 tiles=2 patience=2 again_above=0.5
