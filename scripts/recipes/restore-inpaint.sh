#!/usr/bin/env bash
# Strokes of magenta filled; 20 minutes on 2 CPU cores. The first two stages learn to fill wide ones, which only becomes
# soft patches; the third and the fourth, thin ones.
. "$(dirname "$0")/common.bash"
restore restore-inpaint-1 hole --levels 3 --steps 1200 "$@"
restore restore-inpaint-2 hole --levels 3 --steps 2200 --init "$runs/restore-inpaint-1" "$@"
restore restore-inpaint-3 scratch --levels 3 --steps 1800 --init "$runs/restore-inpaint-2" "$@"
restore restore-inpaint scratch --levels 3 --steps 2000 --init "$runs/restore-inpaint-3" "$@"
