#!/usr/bin/env bash
# fastcut-impressionist-bold: photographs to the impressionists' brush; 15 minutes on 2 CPU cores with AVX512-BF16, after
# fastcut-monet (80 minutes), whose networks it begins with. A discriminator that looks through a frozen VGG-19 joins; the
# second stage takes away the grid. (The first was to be longer and was stopped when its pictures were good.)
. "$(dirname "$0")/common.bash"
[ -e runs/fastcut-monet ] || bash scripts/recipes/fastcut-monet.sh
common=(--source "$data/photo2impressionist/trainA" --target "$data/photo2impressionist/trainB" --size 128
    --zoom 1.7,2.0 --batch-size 2 --width 32 --blocks 6 --discriminator-width 64 --discriminator-layers 2 --nce 1.5
    --identity-l1 3 --projected 1 --features "$vgg" --judge-every 0 --save-every 100 --ema 0.99)
run="$runs/fastcut-impressionist-bold"
train fastcut "${common[@]}" --output "$run-1" --init runs/fastcut-monet --steps 702 --decay 0 "$@"
train fastcut "${common[@]}" --output "$run" --init "$run-1" --steps 600 --decay 0.6 --shift-equivariance 10 "$@"
