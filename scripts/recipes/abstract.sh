#!/usr/bin/env bash
# abstract: photographs dissolved into abstract pictures; 9 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
mkdir -p runs/data/abstract
ln -sf "$(realpath "$data/demo/style")"/{kandinsky-composition-vii,picabia-udnie}.jpg runs/data/abstract/
common=(--features "$vgg" --source "$data/photo2classic/trainA" --target runs/data/abstract --size 128 --zoom 1.5,3.0
    --batch-size 4 --ema 0.99 --width 16 --blocks 1 --discriminator-width 32 --lr 0.0004 --discriminator-lr 0.0008
    --style 0.02 --save-every 250)
train multiscale "${common[@]}" --output "$runs/abstract-1" --steps 1200 --decay 0.3 "$@"
train multiscale "${common[@]}" --output "$runs/abstract" --init "$runs/abstract-1" --steps 1000 --decay 0.5 "$@"
