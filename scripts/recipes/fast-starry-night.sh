#!/usr/bin/env bash
# The Starry Night; 20 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
fast fast-starry-night vincent-van-gogh-167.jpg "$@"
