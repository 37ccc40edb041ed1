#!/usr/bin/env bash
# fastcut-impressionist: photographs to the impressionists' brush; half an hour on 2 CPU cores with AVX512-BF16, after
# fastcut-monet (80 minutes), whose networks it begins with. A discriminator that looks through a frozen VGG-19 joins; the
# second and third stage take away the grid. (Each stage ended when its pictures told so, not by plan.)
. "$(dirname "$0")/common.bash"
[ -e runs/fastcut-monet ] || bash scripts/recipes/fastcut-monet.sh
common=(--source "$data/photo2impressionist/trainA" --target "$data/photo2impressionist/trainB" --size 128
    --zoom 1.7,2.0 --batch-size 2 --width 32 --blocks 6 --discriminator-width 64 --discriminator-layers 2 --nce 1.5
    --identity-l1 3 --features "$vgg" --judge-every 0 --save-every 100 --ema 0.99)
run="$runs/fastcut-impressionist"
train fastcut "${common[@]}" --output "$run-1" --init runs/fastcut-monet --steps 702 --decay 0 --projected 1 "$@"
train fastcut "${common[@]}" --output "$run-2" --init "$run-1" --steps 600 --decay 0.6 --projected 1 \
    --shift-equivariance 10 "$@"
train fastcut "${common[@]}" --output "$run" --init "$run-2" --steps 700 --decay 0.6 --projected 2 \
    --shift-equivariance 6 "$@"
