#!/usr/bin/env bash
# Ink drawings to photographs; 9 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
pairs="$data/edges2photo"
train pix2pix --source "$pairs/trainA" --target "$pairs/trainB" --test-source "$pairs/testA" --test-target "$pairs/testB" \
    --size 128 --zoom 1.0,1.5 --batch-size 8 --generator unet --width 48 --downs 6 --discriminator-width 48 \
    --steps 2000 --decay 0.5 --ema 0.99 --judge-every 500 --save-every 250 --output "$runs/drawing-to-photo" "$@"
