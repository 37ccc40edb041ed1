#!/usr/bin/env bash
# fastcut-impressionist: photographs to the impressionists' brush, its detail as fine as theirs; after
# fastcut-impressionist-bold, which it goes on from. See `detail` in common.bash.
. "$(dirname "$0")/common.bash"
[ -e "$runs/fastcut-impressionist-bold" ] || bash scripts/recipes/fastcut-impressionist-bold.sh
detail fastcut-impressionist "$runs/fastcut-impressionist-bold" "$data/photo2impressionist" 0.75 "$@"
