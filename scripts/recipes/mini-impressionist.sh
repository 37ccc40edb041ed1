#!/usr/bin/env bash
# A small, fast student of fastcut-impressionist.
. "$(dirname "$0")/common.bash"
mini mini-impressionist fastcut-impressionist "$@"
