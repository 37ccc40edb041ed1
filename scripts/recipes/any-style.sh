#!/usr/bin/env bash
# any-style: a picture in the style of any other; three stages of MicroAST with falling learning rates.
. "$(dirname "$0")/common.bash"
common=(--features "$vgg" --source "$data/photo2classic/trainA" --target "$data/photo2classic/trainB" --size 128
    --batch-size 4 --ema 0.99 --decay 0.5 --save-every 250)
train microast "${common[@]}" --output "$runs/any-style-1" --steps 1600 --lr 0.001 "$@"
train microast "${common[@]}" --output "$runs/any-style-2" --init "$runs/any-style-1" --steps 1600 --lr 0.001 \
    --content 5 "$@"
train microast "${common[@]}" --output "$runs/any-style" --init "$runs/any-style-2" --steps 2000 --lr 0.0005 \
    --content 5 "$@"
