#!/usr/bin/env bash
# Blur taken away; 3 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
restore restore-deblur blur --steps 1200 "$@"
