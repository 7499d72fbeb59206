#!/usr/bin/env bash
# What:     what the parts of shipped:filters are worth that are learned: heads trained anew with one thing changed at a time
#           (seed, trunk, cells, samples, cut-outs, absent samples), and a table on the choosing set
# Expected: docs/results.md, "What each part is worth"
# Hours:    1.3 on one CPU core: 7 minutes of views, 2 to 12 of features and 7 of heads a row, 1 to judge it
# Use:      recipes/track-ablation.sh OUT CLIPS PHOTOS CUTOUTS DINOV2 "DAVIS ...": folders as for track-filters.sh, DINOv2
#           ViT-S/14 converted, and roots for track-settings.py; FILES=3 of EPISODES=500 each, STEPS=700, ROWS="base ..."
set -euo pipefail
out=$1 clips=$2 photos=$3 cutouts=$4 dinov2=$5 davis=$6
here=$(dirname "$0") files=${FILES:-3} episodes=${EPISODES:-500} steps=${STEPS:-700}
mkdir -p "$out"

views() { # FIRST-SEED COUNT SHARE-OF-CUTOUTS
  for seed in $(seq "$1" $(($1 + $2 - 1))); do
    [ -f "$out/views-$seed.npz" ] || python "$here/dcf-views.py" "$out/views-$seed.npz" --clips "$clips"/* \
      --photos "$photos"/* --cutouts "$cutouts"/* --episodes "$episodes" --seed "$seed" --pasted "$3" --parts 0.3 --shapes 0.5
  done
}

heads() { # ROW CACHE ENCODER IMAGE TAPS FIRST-SEED COUNT [OPTION ...]
  local row=$1 cache=$2 encoder=$3 image=$4 taps=$5 first=$6 count=$7
  shift 7
  if [ ! -f "$out/$row.safetensors" ]; then
    # shellcheck disable=SC2046,SC2086
    python "$here/dcf-heads.py" "$encoder" "$out/$row.safetensors" --image "$image" --taps $taps --trunk "$encoder" --fine 192 \
      --extent --cache "$out/cache-$cache" --views $(seq -f "$out/views-%g.npz" "$first" $((first + count - 1))) --steps "$steps" \
      "$@" --set presence=facts calibration=1.7,6.4,7.6,-2.83 size_rate=0.5 search_below=0.5 hold_below=0.06 tiles=2 \
      patience=2 again_above=0.5 > "$out/$row.log"
  fi
  if [ ! -f "$out/$row.md" ]; then
    # shellcheck disable=SC2086
    python "$here/track-settings.py" "$out/$row.safetensors" $davis --forms whole small middle zoomed --precision int8 > "$out/$row.part"
    mv "$out/$row.part" "$out/$row.md"
  fi
  echo "$row $(tail -n 1 "$out/$row.md")"
}

for row in ${ROWS:-base seed trunk cells samples absent cutouts}; do
  case $row in
    base) views 700 "$files" 0.65; heads base base shipped:encoder 224 "2 4" 700 "$files" ;;
    seed) views 700 "$files" 0.65; heads seed base shipped:encoder 224 "2 4" 700 "$files" --seed 1 ;;
    trunk) views 700 "$files" 0.65; heads trunk trunk "$dinov2" 224 "4 8" 700 "$files" ;;
    cells) views 700 "$files" 0.65; heads cells cells shipped:encoder 168 "2 4" 700 "$files" ;;
    samples) views 700 1 0.65; heads samples base shipped:encoder 224 "2 4" 700 1 ;;
    absent) views 700 "$files" 0.65; heads absent base shipped:encoder 224 "2 4" 700 "$files" --always ;;
    cutouts) views 720 "$files" 0; heads cutouts cutouts shipped:encoder 224 "2 4" 720 "$files" ;;
  esac
done
