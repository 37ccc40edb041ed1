#!/usr/bin/env bash
# Make .venv with this project and the extras named as arguments; quick when nothing has changed.
# Environment: PYTHON (python3), TORCH (the release that is tested; the CPU build where the index has one).
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:-train}"
torch="${TORCH:-torch==2.13.0}"
stamp=".venv/.styleforge-$(printf '%s %s' "$extras" "$torch" | cat - pyproject.toml | cksum | cut -d ' ' -f 1)"
[ -e "$stamp" ] && exit 0
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
# torch by itself first: asked for by range, pip may take a newer build with gigabytes of CUDA.
.venv/bin/pip install --quiet "$torch" 2> >(grep -v 'is ignored: it is neither' >&2)
.venv/bin/pip install --quiet --editable ".[$extras]" 2> >(grep -v 'is ignored: it is neither' >&2)
touch "$stamp"
