#!/usr/bin/env bash
# fastcut-classic: photographs to oil paintings of 1490 to 1930, their detail as fine as that of paintings; after
# fastcut-classic-bold, which it goes on from. See `detail` in common.bash.
. "$(dirname "$0")/common.bash"
[ -e "$runs/fastcut-classic-bold" ] || bash scripts/recipes/fastcut-classic-bold.sh
detail fastcut-classic "$runs/fastcut-classic-bold" "$data/photo2classic" 1 "$@"
