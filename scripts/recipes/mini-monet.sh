#!/usr/bin/env bash
# A small, fast student of fastcut-monet.
. "$(dirname "$0")/common.bash"
mini mini-monet fastcut-monet "$@"
