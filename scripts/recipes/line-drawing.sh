#!/usr/bin/env bash
# Photographs to ink drawings; 2 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
pairs="$data/edges2photo"
train pix2pix --source "$pairs/trainB" --target "$pairs/trainA" --test-source "$pairs/testB" --test-target "$pairs/testA" \
    --size 128 --zoom 1.0,2.0 --batch-size 8 --generator unet --width 32 --downs 5 --discriminator-width 32 --no-dropout \
    --steps 900 --decay 0.5 --ema 0.99 --judge-every 300 --save-every 300 --output "$runs/line-drawing" "$@"
