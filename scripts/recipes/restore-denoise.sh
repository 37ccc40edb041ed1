#!/usr/bin/env bash
# Noise taken away; 12 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
restore restore-denoise noise --steps 5000 "$@"
