#!/usr/bin/env bash
# poster: photographs as old posters; 25 minutes on one core with AVX512-BF16, after fastcut-classic-bold (105 minutes), whose
# networks it begins with. It learns from those of the posterised museum works that are flat and drawn (poster.txt); the
# others measure it.
# --spectrum was then a loss of two batches, blind to weak detail of colors.
. "$(dirname "$0")/common.bash"
[ -e "$runs/fastcut-classic-bold" ] || bash scripts/recipes/fastcut-classic-bold.sh
posters="$runs/../data/posters"
mkdir -p "$posters"
while read -r name; do ln -sf "$(realpath "$data/demo/style_cc0_poster/$name")" "$posters"; done < scripts/recipes/poster.txt
common=(--source "$data/photo2classic/trainA" --target "$posters" --size 128 --zoom 1.7,2.0 --batch-size 2 --width 32
    --blocks 6 --discriminator-width 64 --discriminator-layers 2 --nce 1.5 --identity-l1 3 --projected 1
    --features "$vgg" --spectrum 1 --judge-every 0 --save-every 100 --ema 0.99)
run="$runs/poster"
train fastcut "${common[@]}" --output "$run-1" --init "$runs/fastcut-classic-bold" --steps 600 --decay 0.5 \
    --shift-equivariance 3 "$@"
train fastcut "${common[@]}" --output "$run" --init "$run-1" --steps 700 --decay 0.6 --shift-equivariance 8 "$@"
