#!/usr/bin/env bash
# A small, fast student of fastcut-classic.
. "$(dirname "$0")/common.bash"
mini mini-classic fastcut-classic "$@"
