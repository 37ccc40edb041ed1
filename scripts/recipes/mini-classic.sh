#!/usr/bin/env bash
# A 0.4 MB student of fastcut-classic-bold; 5 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
"${PYTHON:-python}" -m styleforge distill model_cards/fastcut-classic-bold --features "$vgg" --target "$data/photo2classic/trainA" --size 192 \
    --zoom 1.0,1.4 --steps 1500 --decay 0.6 --lr-warmup 30 --ema 0.99 --judge-every 0 --save-every 250 \
    --license apache-2.0 --output "$runs/mini-classic" "$@"
