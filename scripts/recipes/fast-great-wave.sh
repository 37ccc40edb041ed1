#!/usr/bin/env bash
# The Great Wave off Kanagawa; 15 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
fast fast-great-wave hokusai-great-wave.jpg "$@"
