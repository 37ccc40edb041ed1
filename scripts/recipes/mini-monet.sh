#!/usr/bin/env bash
# A 0.4 MB student of fastcut-monet; 12 minutes of a core.
. "$(dirname "$0")/common.bash"
"${PYTHON:-python}" -m styleforge distill fastcut-monet --features "$vgg" --target "$data/photo2classic/trainA" --size 192 \
    --zoom 1.0,1.4 --shift-equivariance 3 --steps 2000 --decay 0.6 --lr-warmup 30 --ema 0.99 --judge-every 0 --save-every 250 \
    --license apache-2.0 --output "$runs/mini-monet" "$@"
