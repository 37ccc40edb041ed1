#!/usr/bin/env bash
# Dark photographs made bright; 10 minutes on 2 CPU cores. (The second run was stopped by its time at 1,756 steps.)
. "$(dirname "$0")/common.bash"
restore restore-lowlight-1 dark --levels 3 --steps 1200 "$@"
restore restore-lowlight dark --levels 3 --steps 2200 --max-seconds 300 --init "$runs/restore-lowlight-1" "$@"
