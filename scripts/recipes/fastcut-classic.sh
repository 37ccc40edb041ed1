#!/usr/bin/env bash
# fastcut-classic: photographs to oil paintings of 1490 to 1930; 75 minutes on 2 CPU cores shared with other work.
# The first stage is what scripts/style_in_an_hour.sh did at that time (it kept a tenth of the pictures apart); the second
# takes away its grid.
. "$(dirname "$0")/common.bash"
common=(--source "$data/photo2classic/trainA" --target "$data/photo2classic/trainB" --size 128 --zoom 1.25,2.0
    --batch-size 2 --width 32 --blocks 6 --downsample blur --upsample blur --discriminator-layers 2
    --discriminator-downsample blur --nce 1.5 --identity-l1 3 --save-every 100)
train fastcut "${common[@]}" --output "$runs/fastcut-classic-1" --steps 5600 "$@"
train fastcut "${common[@]}" --output "$runs/fastcut-classic" --init "$runs/fastcut-classic-1" --steps 900 --decay 0.5 \
    --ema 0.99 --shift-equivariance 10 "$@"
