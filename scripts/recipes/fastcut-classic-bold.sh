#!/usr/bin/env bash
# fastcut-classic-bold: photographs to oil paintings of 1490 to 1930; 105 minutes on 2 CPU cores shared with other work.
# The first stage is what scripts/style_in_an_hour.sh did at that time (it kept a tenth of the pictures apart); the second
# takes away its grid. Then a discriminator that looks through a frozen VGG-19 joins, first without, then with shift
# equivariance, and at last a loss on spectra. (The fourth stage was run with a weaker form of that loss, too. --spectrum
# was then a loss of two batches, blind to weak detail of colors.)
. "$(dirname "$0")/common.bash"
common=(--source "$data/photo2classic/trainA" --target "$data/photo2classic/trainB" --size 128 --batch-size 2
    --width 32 --blocks 6 --downsample blur --upsample blur --discriminator-layers 2 --discriminator-downsample blur
    --nce 1.5 --identity-l1 3 --save-every 100)
projected=(--zoom 1.7,2.0 --projected 1 --features "$vgg" --judge-every 0 --ema 0.99)
run="$runs/fastcut-classic-bold"
train fastcut "${common[@]}" --zoom 1.25,2.0 --output "$run-1" --steps 5600 "$@"
train fastcut "${common[@]}" --zoom 1.25,2.0 --output "$run-2" --init "$run-1" --steps 900 --decay 0.5 --ema 0.99 \
    --shift-equivariance 10 "$@"
train fastcut "${common[@]}" "${projected[@]}" --output "$run-3" --init "$run-2" --steps 700 --decay 0 "$@"
train fastcut "${common[@]}" "${projected[@]}" --output "$run-4" --init "$run-3" --steps 600 --decay 0.6 \
    --shift-equivariance 10 "$@"
train fastcut "${common[@]}" "${projected[@]}" --output "$run" --init "$run-4" --steps 400 --decay 0.7 \
    --shift-equivariance 6 --spectrum 1 "$@"
