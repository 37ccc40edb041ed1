#!/usr/bin/env bash
# Fine Wind, Clear Weather (Red Fuji); 50 minutes on 2 CPU cores shared with other work.
. "$(dirname "$0")/common.bash"
fast fast-red-fuji hokusai-red-fuji.jpg "$@"
