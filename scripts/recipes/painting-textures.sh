#!/usr/bin/env bash
# painting-textures: patches of impressionist paint out of noise; 67 minutes on a core with AVX512-BF16 that it shared. The
# discriminator that looks through a frozen VGG-19 knows paint from the first step on.
. "$(dirname "$0")/common.bash"
train stylegan2 --target "$data/photo2impressionist/trainB" --output "$runs/textures" --size 128 --zoom 1.7,2.0 \
    --batch-size 8 --steps 2400 --decay 0.2 --ema 0.995 --width 16 --discriminator-width 16 --max-width 128 \
    --noise-size 128 --style-size 128 --mapping-layers 2 --path-length 0 --projected 1 --features "$vgg" \
    --judge-every 0 --save-every 100 "$@"
