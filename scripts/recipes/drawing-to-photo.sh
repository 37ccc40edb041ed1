#!/usr/bin/env bash
# Ink drawings to photographs; 45 minutes on one core with AVX512-BF16. A discriminator that looks through a frozen VGG-19
# knows photographs from the first step on; the second stage brings back lines that the first one lost.
. "$(dirname "$0")/common.bash"
pairs="$data/edges2photo" run="$runs/drawing-to-photo"
common=(--source "$pairs/trainA" --target "$pairs/trainB" --size 128 --zoom 1.0,1.5 --batch-size 4 --generator resnet
    --norm instance --no-dropout --width 32 --blocks 6 --discriminator-width 32 --discriminator-layers 2 --l1 20
    --projected 1 --features "$vgg" --ema 0.99 --judge-every 0 --save-every 100)
train pix2pix "${common[@]}" --steps 1300 --decay 0.5 --output "$run-1" "$@"
train pix2pix "${common[@]}" --steps 900 --decay 0.6 --output "$run" --init "$run-1" "$@"
