#!/usr/bin/env bash
# Composition VII; 20 minutes on 2 CPU cores.
. "$(dirname "$0")/common.bash"
fast fast-composition-vii kandinsky-composition-vii.jpg "$@"
